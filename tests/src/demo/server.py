"""The demo's servers: an ordinary API, one that closes idle connections soon, one that aborts now and then."""

import http.server
import socket
import struct
import threading
import time

ABORT = struct.pack("ii", 1, 0)  # SO_LINGER with 0 seconds: close sends a RST


class Api(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        body = b"x" * 2000
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Impatient(Api):
    timeout = 2  # closes a connection that is idle for so long: the client's pool does not know


class Aborting(Api):
    def do_GET(self):
        self.server.requests += 1
        if self.server.requests % 4 == 0:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
            self.close_connection = True
            # The handler's files hold the socket open beside the connection itself.
            self.rfile.close()
            self.connection.close()
        else:
            super().do_GET()

    def finish(self):
        try:
            super().finish()
        except (OSError, ValueError):
            pass


def serve(port, handler):
    server = http.server.ThreadingHTTPServer(("0.0.0.0", port), handler)
    server.daemon_threads = True
    server.requests = 0
    server.handle_error = lambda *_: None
    threading.Thread(target=server.serve_forever, daemon=True).start()


serve(8080, Api)
serve(8081, Impatient)
serve(8082, Aborting)
print("ready", flush=True)
while True:
    time.sleep(3600)
