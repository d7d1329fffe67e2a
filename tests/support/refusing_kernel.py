"""Run a program for which a system call fails, as on a file system or a disk that a test machine lacks.

The kernel itself refuses the call, for the program and its children, through a seccomp filter that needs no privilege.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys

_NUMBERS = {"x86_64": {"flock": 73}, "aarch64": {"flock": 32}}
_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_NO_NEW_PRIVILEGES, _SECCOMP, _FILTER = 38, 22, 2
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06


def supported() -> bool:
    return sys.platform == "linux" and platform.machine() in _NUMBERS


def refuse(call: str, errno: int) -> None:
    """Let the system call fail with `errno` from now on, in this process and its children."""
    machine = platform.machine()
    steps = [
        (_LOAD, 0, 0, 4),  # the architecture: on another one, numbers mean other calls
        (_EQUAL, 0, 2, _ARCHITECTURES[machine]),
        (_LOAD, 0, 0, 0),  # the number of the call
        (_EQUAL, 1, 0, _NUMBERS[machine][call]),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _ERRNO | errno),
    ]
    program = b"".join(struct.pack("HBBI", *step) for step in steps)
    buffer = ctypes.create_string_buffer(program)

    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("steps", ctypes.c_void_p)]

    filter_ = Program(len(steps), ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    for arguments in ((_NO_NEW_PRIVILEGES, 1, 0, 0, 0), (_SECCOMP, _FILTER, ctypes.byref(filter_), 0, 0)):
        if libc.prctl(*arguments):
            raise OSError(ctypes.get_errno(), "prctl")


if __name__ == "__main__":
    refuse(sys.argv[1], int(sys.argv[2]))
    os.execv(sys.argv[3], sys.argv[3:])  # noqa: S606 - a test's own program
