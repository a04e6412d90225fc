"""Runs a program to whom the kernel refuses a system call, as it does at a limit.

refused.py inotify_init1|inotify_add_watch PROGRAM ARGUMENT...
"""

import ctypes
import errno
import os
import platform
import struct
import sys

NUMBERS = {
    "x86_64": {"inotify_init1": 294, "inotify_add_watch": 254},
    "aarch64": {"inotify_init1": 26, "inotify_add_watch": 27},
}
ERRORS = {"inotify_init1": errno.EMFILE, "inotify_add_watch": errno.ENOSPC}
PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 22, 2
# Of the classic packet filter: load a word, jump where equal, return.
LOAD, JUMP_EQUAL, RETURN = 0x20, 0x15, 0x06
ALLOW, ERRNO = 0x7FFF0000, 0x00050000

call, program = sys.argv[1], sys.argv[2:]
number = NUMBERS[platform.machine()][call]
steps = [
    # The number of the call stands first in what is filtered.
    (LOAD, 0, 0, 0),
    (JUMP_EQUAL, 0, 1, number),
    (RETURN, 0, 0, ERRNO | ERRORS[call]),
    (RETURN, 0, 0, ALLOW),
]
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))


class Filter(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("steps", ctypes.c_void_p)]


asked = Filter(len(steps), ctypes.addressof(code))
libc = ctypes.CDLL(None, use_errno=True)
if libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(asked), 0, 0) != 0:
    sys.exit(f"refused.py: {os.strerror(ctypes.get_errno())}")
os.execv(program[0], program)
