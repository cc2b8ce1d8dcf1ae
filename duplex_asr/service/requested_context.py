"""Data of a Wyoming `transcribe` in, the text out that tells the model what may be spoken of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from duplex_asr.asr.hints import MAX_CONTEXT_CHARS


def parse_context(data: Mapping[str, Any]) -> str | None:
    """`context.text`, then `transcript_terms` and `transcript_names`; None where nothing is given.

    Whisper takes the last tokens of it, so that what counts most comes last, and what is beyond
    MAX_CONTEXT_CHARS is left out. Anything that is no text is ignored: the protocol does not say
    what a context holds.
    """
    context = data.get("context")
    parts = [context.get("text")] if isinstance(context, Mapping) else []
    for key in ("transcript_terms", "transcript_names"):
        words = data.get(key)
        if isinstance(words, list):
            parts.append(", ".join(each for each in words if isinstance(each, str)))
    text = " ".join(part for part in parts if isinstance(part, str) and part)
    return text[-MAX_CONTEXT_CHARS:] or None
