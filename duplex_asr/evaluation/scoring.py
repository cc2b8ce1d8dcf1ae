"""What was said and what was heard in, word errors and how both texts go together out.

Both texts are normalised as Whisper's authors do it for English, so that spelling, figures and
marks are no errors; then `jiwer` aligns them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

from duplex_asr.errors import ConfigError

INSTALL = "pip install 'duplex-asr[eval]'"

Normalise = Callable[[str], str]
Kind = Literal["equal", "substitute", "delete", "insert"]
_KINDS: dict[str, Kind] = {each: each for each in get_args(Kind)}


@dataclass(frozen=True)
class Piece:
    """Words that belong together. equal: said as heard; delete: not heard; insert: not said."""

    kind: Kind
    said: str
    heard: str


@dataclass(frozen=True)
class Score:
    """Of one text. hallucinated: words that were heard though nobody spoke; they are no insertions.

    reference, hypothesis: the texts after normalising.
    """

    reference: str
    hypothesis: str
    hits: int = 0
    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0
    hallucinated: int = 0
    alignment: tuple[Piece, ...] = ()

    @property
    def words(self) -> int:
        """Words that were said."""
        return self.hits + self.substitutions + self.deletions

    @property
    def errors(self) -> int:
        return self.substitutions + self.deletions + self.insertions


def check_installed() -> None:
    """Raise ConfigError that names the pip command if the libraries for scoring are missing."""
    try:
        import jinja2  # noqa: F401
        import jiwer  # noqa: F401
        import tqdm  # noqa: F401
        import whisper_normalizer  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"`eval` needs the package {error.name}: {INSTALL}") from error


def normaliser_for(language: str) -> Normalise:
    """Whisper's normaliser for a language, whitespace made single blanks: English has its own.

    The first call takes some milliseconds; nothing is downloaded.
    """
    if language == "en":
        from whisper_normalizer.english import EnglishTextNormalizer

        normalise = EnglishTextNormalizer()
    else:
        from whisper_normalizer.basic import BasicTextNormalizer

        normalise = BasicTextNormalizer()
    return lambda text: " ".join(normalise(text).split())


def score(reference: str, hypothesis: str) -> Score:
    """Align two normalised texts."""
    if not reference:
        invented = (Piece("insert", "", hypothesis),) if hypothesis else ()
        return Score("", hypothesis, 0, 0, 0, 0, len(hypothesis.split()), invented)
    import jiwer

    result = jiwer.process_words(reference, hypothesis)
    said, heard = result.references[0], result.hypotheses[0]
    pieces = tuple(
        Piece(
            _KINDS[each.type],
            " ".join(said[each.ref_start_idx : each.ref_end_idx]),
            " ".join(heard[each.hyp_start_idx : each.hyp_end_idx]),
        )
        for each in result.alignments[0]
    )
    return Score(
        reference, hypothesis, result.hits, result.substitutions, result.deletions,
        result.insertions, 0, pieces,
    )  # fmt: skip
