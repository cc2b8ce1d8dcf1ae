"""A bar on stderr for long work, where that is a terminal."""

from __future__ import annotations

import sys
from typing import Any


def new_bar(*iterables: Any, **options: Any) -> Any:
    """tqdm's bar, to be closed; it leaves nothing behind and shows nothing in a pipe or log."""
    from tqdm import tqdm

    tqdm.monitor_interval = 0  # no thread of its own
    # Until a bar is finished making itself: a signal may come first, and what is left of it would
    # complain about itself when it is collected.
    tqdm.disable = True
    return tqdm(*iterables, disable=None, leave=False, file=sys.stderr, **options)
