"""The demo's client: a program with a pool of HTTP connections, as any API client has. Usage: client.py SERVER"""

import http.client
import socket
import sys
import threading
import time

SERVER = sys.argv[1]


def pooled(port, pause, keepalive=False, timeout=25.0):
    """One pooled connection: a request, a pause, the next request on the same connection; a new one after an error."""
    connection = None
    while True:
        try:
            if connection is None:
                connection = http.client.HTTPConnection(SERVER, port, timeout=timeout)
                connection.connect()
                if keepalive:
                    for option, value in ((socket.TCP_KEEPIDLE, 1), (socket.TCP_KEEPINTVL, 1), (socket.TCP_KEEPCNT, 3)):
                        connection.sock.setsockopt(socket.IPPROTO_TCP, option, value)
                    connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            connection.request("GET", "/v1/messages")
            connection.getresponse().read()
            # http.client would open a new connection by itself when the server said it would close.
        except (OSError, http.client.HTTPException):
            if connection is not None:
                connection.close()
            connection = None
        time.sleep(pause)


def start(*args, **more):
    threading.Thread(target=pooled, args=args, kwargs=more, daemon=True).start()


start(8080, 1.0)  # busy: the NAT keeps it
start(8080, 8.0)  # idle longer than the NAT remembers: the next request hangs
start(8080, 8.0, keepalive=True)  # as idle, but keepalive refreshes the NAT
start(8081, 2.5)  # the server closes it first: reset on reuse
start(8082, 1.5)  # the server aborts every fourth request
print("ready", flush=True)
while True:
    time.sleep(3600)
