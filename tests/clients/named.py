"""A process with a name of its own whose grandchildren, with other names, make the connections."""

import json
import os
import socket
import struct
import sys

SO_COOKIE = 57


def name(text):
    with open("/proc/self/comm", "w") as comm:
        comm.write(text)


def connect(host, port):
    """Connects in a grandchild, which keeps the connection until its stdin ends."""
    read, write = os.pipe()
    if os.fork() == 0:
        name("in-between")
        if os.fork() == 0:
            name("grandchild")
            connection = socket.create_connection((host, int(port)))
            cookie = struct.unpack("Q", connection.getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8))[0]
            enabled = connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            seen = {"cookie": f"{cookie:x}", "pid": os.getpid(), "keepalive": bool(enabled)}
            os.write(write, json.dumps(seen).encode())
        os._exit(0)
    os.close(write)
    os.wait()
    with os.fdopen(read) as answer:
        return json.load(answer)


name(sys.argv[1])
print(json.dumps({"event": "ready", "pid": os.getpid()}), flush=True)
for line in sys.stdin:
    op, command, *rest = line.split()
    try:
        answer = {"op": op, "ok": True, **{"connect": connect}[command](*rest)}
    except Exception as error:
        answer = {"op": op, "ok": False, "error": repr(error)}
    print(json.dumps(answer), flush=True)
