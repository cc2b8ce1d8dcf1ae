"""Futures of values that are waited for until they are known, and may be others later."""

from __future__ import annotations

import asyncio
from typing import TypeVar

T = TypeVar("T")


def known(future: asyncio.Future[T]) -> T | None:
    """The value, if there is one."""
    return future.result() if future.done() and not future.cancelled() else None


def now_known(future: asyncio.Future[T], value: T) -> asyncio.Future[T]:
    """The same future with its value, or, if it had one before, a new one that has this."""
    newest = future.get_loop().create_future() if future.done() else future
    newest.set_result(value)
    return newest
