"""An HTTP client with a connection pool that obeys lines on stdin, as agt-workload does.

    N get URL        one request through the pool (requests.Session)
    N httpx URL      one request through httpx's pool
    N raw HOST PORT  one request on a kept http.client connection
"""

import http.client
import json
import os
import sys
import threading

import requests
import urllib3

urllib3.disable_warnings()
session = requests.Session()
session.verify = False
kept = {}
making = threading.Lock()


def say(**fields):
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


def error_name(e):
    """The errno at the root of what the library wrapped."""
    while e is not None:
        if isinstance(e, ConnectionResetError):
            return "ECONNRESET"
        if isinstance(e, ConnectionRefusedError):
            return "ECONNREFUSED"
        # requests and urllib3 keep the cause in arguments rather than in __cause__.
        inner = [a for a in e.args if isinstance(a, BaseException)]
        e = inner[0] if inner else getattr(e, "reason", None) or e.__cause__ or e.__context__
    return "other"


def get(url):
    return session.get(url).status_code


def httpx(url):
    with making:
        if "httpx" not in kept:
            # Not at the start: most tests need only requests.
            from httpx import Client

            kept["httpx"] = Client(timeout=None, verify=False)
    return kept["httpx"].get(url).status_code


def raw(host, port):
    connection = kept.setdefault((host, port), http.client.HTTPConnection(host, int(port)))
    connection.request("GET", "/ok")
    response = connection.getresponse()
    response.read()
    return response.status


def do(op, verb, *args):
    try:
        say(op=op, ok=True, status={"get": get, "httpx": httpx, "raw": raw}[verb](*args))
    except Exception as e:  # whatever the library makes of it is what the test asks for
        say(op=op, ok=False, errno=error_name(e), error=repr(e))


say(event="ready", pid=os.getpid())
for line in sys.stdin:
    threading.Thread(target=do, args=line.split(), daemon=True).start()
os._exit(0)
