"""One event to many sockets without losing Python's lock in between.

`socket.send` lets other threads run while the kernel copies. With a voice detector at work that is
a bad bargain a hundred times in a row: the copy takes two microseconds, getting the lock back up
to five milliseconds, each time. A call through ctypes.PyDLL keeps the lock; a socket that does not
block gives it back as fast as any other function.
"""

from __future__ import annotations

import asyncio
import ctypes
import socket

_send = ctypes.PyDLL(None).send
_send.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int)
_send.restype = ctypes.c_ssize_t
_FLAGS = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL


def send_now(fd: int, data: bytes) -> int:
    """How many bytes the kernel took without waiting; 0 also if the connection is broken."""
    return max(0, int(_send(fd, data, len(data), _FLAGS)))


def write_now(transport: asyncio.Transport, data: bytes) -> None:
    """`transport.write`, except that what the kernel takes is sent without giving the lock away."""
    if transport.is_closing():
        return
    if not transport.get_write_buffer_size():
        fd: int = transport.get_extra_info("socket").fileno()
        data = data[send_now(fd, data) :]
    if data:
        transport.write(data)
