"""Has what was freed given back to the system, where glibc would keep it for the next time."""

from __future__ import annotations

import contextlib
import ctypes

M_MMAP_THRESHOLD = -3  # glibc's malloc.h
MMAP_THRESHOLD_BYTES = 128 * 1024  # what glibc starts with


def return_freed_memory() -> None:
    """Have large blocks given back to the system as soon as they are freed.

    glibc does so until it has seen some come and go; then it keeps them for the next time, between
    small ones that stay. After twenty clients at once that was half of the daemon's memory.
    """
    with contextlib.suppress(AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES)


def trim_freed_memory() -> None:
    """Give back what small blocks leave between them, as after an engine was unloaded."""
    with contextlib.suppress(AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)
