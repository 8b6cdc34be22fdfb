"""MPTCP to itself: a listener, a connection, and what its options are."""

import json
import os
import socket
import struct
import sys

IPPROTO_MPTCP, SO_COOKIE, TCP_USER_TIMEOUT = 262, 57, 18

listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, IPPROTO_MPTCP)
listener.bind(("127.0.0.1", 0))
listener.listen()
open_ones = []


def connect():
    connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM, IPPROTO_MPTCP)
    connection.connect(listener.getsockname())
    open_ones.extend([connection, listener.accept()[0]])
    host, port = connection.getpeername()
    cookie = struct.unpack("Q", connection.getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8))[0]
    local = connection.getsockname()
    return {"cookie": f"{cookie:x}", "remote": f"{host}:{port}", "local": f"{local[0]}:{local[1]}"}


def options():
    connection = open_ones[0]
    return {
        "keepalive": bool(connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)),
        "idle_s": connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE),
    }


print(json.dumps({"event": "ready", "pid": os.getpid()}), flush=True)
for line in sys.stdin:
    op, command = line.split()
    try:
        answer = {"op": op, "ok": True, **{"connect": connect, "options": options}[command]()}
    except Exception as error:
        answer = {"op": op, "ok": False, "error": repr(error)}
    print(json.dumps(answer), flush=True)
