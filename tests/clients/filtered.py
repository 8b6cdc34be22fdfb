"""A process with a seccomp filter (which allows everything) and a connection to itself; ends with its stdin."""

import ctypes
import json
import os
import socket
import struct
import sys

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
# One BPF instruction: return SECCOMP_RET_ALLOW.
ALLOW = struct.pack("HBBI", 0x06, 0, 0, 0x7FFF0000)


class Program(ctypes.Structure):
    _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


listener = socket.create_server(("127.0.0.1", 0))
connection = socket.create_connection(listener.getsockname())
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
assert libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(Program(1, ALLOW))) == 0
print(json.dumps({"event": "ready", "pid": os.getpid()}), flush=True)
sys.stdin.read()
