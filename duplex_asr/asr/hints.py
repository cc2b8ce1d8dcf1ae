"""What is known of one speech before it is heard."""

from __future__ import annotations

from dataclasses import dataclass

MAX_CONTEXT_CHARS = 10_000  # many more than Whisper's 223 tokens can hold


@dataclass(frozen=True)
class Hints:
    """Where a request differs from the configuration.

    language: spoken, as in Tokenizer.languages; None: as configured.
    context: names and words that may occur, or what was said before; None: as configured.
    """

    language: str | None = None
    context: str | None = None
