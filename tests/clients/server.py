"""An HTTP/1.1 server for the clients beside it: server.py ADDRESS PORT [CERTIFICATE_AND_KEY].

Keeps connections open. /ok answers, /slow after half a second, /wait never; /reset closes with linger 0 instead, /partial
in the middle of its answer. Says each request's peer.
"""

import http.server
import json
import os
import socket
import ssl
import struct
import sys
import threading
import time


def say(**fields):
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        host, port = self.client_address[:2]
        say(event="request", path=self.path, peer=f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
        if self.path == "/slow":
            time.sleep(0.5)
        if self.path == "/wait":
            time.sleep(3600)
        if self.path == "/partial":
            self.send_response(200)
            self.send_header("Content-Length", "1000000")
            self.end_headers()
            self.wfile.write(b"x" * 20_000)
            time.sleep(0.1)
        if self.path in ("/reset", "/partial"):
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            # close() alone would wait for the file objects; the descriptor itself must go.
            self.wfile.flush()
            os.close(self.connection.detach())
            sys.exit()
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    def handle_error(self, *_):
        """A connection that breaks is what the tests are about."""

    def shutdown_request(self, request):
        if request.fileno() >= 0:
            super().shutdown_request(request)


address, port = sys.argv[1], int(sys.argv[2])
Server.address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
server = Server((address, port), Handler)
if len(sys.argv) > 3:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[3])
    server.socket = context.wrap_socket(server.socket, server_side=True)
threading.Thread(target=server.serve_forever, daemon=True).start()
say(event="ready", pid=os.getpid())
sys.stdin.read()
os._exit(0)
