"""What a source has to say besides its frames."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

NoticeKind = Literal["lost", "listening", "input-silent", "input-clipped"]


@dataclass(frozen=True)
class SourceNotice:
    """Something happened to a source that goes on.

    lost: no frames come until the next "listening"; the frame after that has a later position.
    listening: what was lost or wrong is so no more. input-silent, input-clipped: the sound that
    comes is of no use. text: one sentence that names the device, and what to do if it is wrong.
    """

    kind: NoticeKind
    text: str
