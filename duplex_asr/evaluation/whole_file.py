"""What is written to a file appears in it at once and whole, or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from duplex_asr.errors import ConfigError


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[IO[str]]:
    """A text file that takes the place of `path` when the block ends without an error.

    What UTF-8 cannot hold, such as the bytes of an odd file name, is written as an escape.
    Raises ConfigError if the folder cannot be written to, or the disk is full.
    """
    if path.exists() and not path.is_file():
        raise ConfigError(f"cannot write {path}: it is no file; name another one")
    temporary = None
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name[:100]}.", dir=path.parent)
        temporary = Path(name)
        with open(
            descriptor, "w", encoding="utf-8", errors="backslashreplace", newline="\n"
        ) as file:
            yield file
        temporary.chmod(0o666 & ~_umask())
        os.replace(temporary, path)
        temporary = None
    except OSError as error:
        raise ConfigError(
            f"cannot write {path} ({error.strerror or error}): see its folder; nothing was left "
            "behind"
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def check_writable(path: Path) -> None:
    """Raise ConfigError now, and not after hours of work, if `path` cannot be written."""
    with contextlib.suppress(_Unwritten), whole_file(path):
        raise _Unwritten


class _Unwritten(Exception):
    """Leaves `whole_file` without putting anything in its place."""


def _umask() -> int:
    """What new files of this process are not allowed; it can only be read by setting it."""
    umask = os.umask(0o077)
    os.umask(umask)
    return umask
