"""Text and Whisper's tokens: byte-pair ranks from a file, special tokens in Whisper's order.

Follows openai/whisper's `tokenizer.py`; the byte-pair encoding itself is done by tiktoken.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tiktoken

from duplex_asr.errors import ConfigError, EngineError

# In the order of their token ids: a model with fewer languages knows the first ones.
LANGUAGES = tuple(
    """en zh de es ru ko fr ja pt tr pl ca nl ar sv it id hi fi vi he uk el ms cs ro da hu ta no th
    ur hr bg lt la mi ml cy sk te fa lv bn sr az sl kn et mk br eu is hy ne mn bs kk sq sw gl mr pa
    si km sn yo so af oc ka be tg sd gu am yi lo uz fo ht ps tk nn mt sa lb my bo tl mg as tt haw ln
    ha ba jw su yue""".split()
)
NUM_TIMESTAMPS = 1501  # <|0.00|> to <|30.00|> in steps of 20 ms
_NUM_OTHER_SPECIALS = 8  # end, start, translate, transcribe, startoflm, startofprev, no..., no...

_WORD_PATTERN = r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
_ASSETS = Path(__file__).parent / "assets"


def bundled_ranks(is_multilingual: bool) -> Path:
    """The rank file of OpenAI's own models."""
    return _ASSETS / ("multilingual.tiktoken" if is_multilingual else "gpt2.tiktoken")


def read_ranks(path: Path) -> dict[bytes, int]:
    """Read a rank file: a base64 token and its rank a line. Raises EngineError."""
    ranks: dict[bytes, int] = {}
    try:
        for line in path.read_bytes().splitlines():
            token, rank = line.split()
            # OpenAI's multilingual file ends with a token of no bytes, written as "=".
            ranks[b"" if token == b"=" else base64.b64decode(token, validate=True)] = int(rank)
    except OSError as error:
        raise EngineError(f"cannot read the tokenizer {path}: {error.strerror}") from error
    except (ValueError, binascii.Error) as error:
        raise EngineError(f"{path} is not a tokenizer in tiktoken format: {error}") from error
    if sorted(ranks.values()) != list(range(len(ranks))):
        raise EngineError(f"{path} is not a whole tokenizer: its ranks do not count 0, 1, 2, ...")
    missing = [byte for byte in range(256) if bytes([byte]) not in ranks]
    if missing:
        raise EngineError(f"{path} is not a tokenizer: {len(missing)} single bytes have no token")
    return ranks


class Tokenizer:
    """Tokens of one model.

    ranks: byte string -> token id, ids 0..n-1.
    n_vocab: size of the model's vocabulary; the number of languages follows from it.
    Raises EngineError if the two do not fit together.
    """

    def __init__(self, ranks: dict[bytes, int], n_vocab: int, is_multilingual: bool) -> None:
        num_languages = n_vocab - len(ranks) - NUM_TIMESTAMPS - _NUM_OTHER_SPECIALS
        if not 1 <= num_languages <= len(LANGUAGES):
            raise EngineError(
                f"the tokenizer has {len(ranks)} ranks and the model {n_vocab} tokens: "
                "they do not belong together"
            )
        self.languages = LANGUAGES[:num_languages]
        self.is_multilingual = is_multilingual
        specials = [
            "<|endoftext|>",
            "<|startoftranscript|>",
            *(f"<|{language}|>" for language in self.languages),
            "<|translate|>",
            "<|transcribe|>",
            "<|startoflm|>",
            "<|startofprev|>",
            "<|nospeech|>",
            "<|notimestamps|>",
            *(f"<|{0.02 * index:.2f}|>" for index in range(NUM_TIMESTAMPS)),
        ]
        self._specials = {name: len(ranks) + index for index, name in enumerate(specials)}
        self._encoding = tiktoken.Encoding(
            name="whisper",
            explicit_n_vocab=n_vocab,
            pat_str=_WORD_PATTERN,
            mergeable_ranks=ranks,
            special_tokens=self._specials,
        )
        self.eot = self._specials["<|endoftext|>"]
        self.sot = self._specials["<|startoftranscript|>"]
        self.no_speech = self._specials["<|nospeech|>"]
        self.sot_prev = self._specials["<|startofprev|>"]
        self.no_timestamps = self._specials["<|notimestamps|>"]
        self.timestamp_begin = self._specials["<|0.00|>"]
        # They follow each other in the vocabulary.
        self.language_tokens = range(self.sot + 1, self.sot + 1 + num_languages)

    def special(self, name: str) -> int:
        """The id of a special token such as "<|transcribe|>"."""
        return self._specials[name]

    def prompt(
        self, language: str = "en", task: str = "transcribe", *, timestamps: bool = False
    ) -> tuple[int, ...]:
        """The start-of-transcript sequence; with timestamps it leaves <|notimestamps|> out.

        English-only models take no language and no task. Raises ConfigError for what the model
        does not know.
        """
        if language not in (self.languages if self.is_multilingual else ("en",)):
            advice = "this is an English-only model: use a multilingual one"
            if self.is_multilingual:
                advice = f"the model knows {' '.join(self.languages)}"
            raise ConfigError(f"transcription.language = {language!r}: {advice}")
        if task != "transcribe" and not self.is_multilingual:
            raise ConfigError(
                f"transcription.task = {task!r}: this is an English-only model, which only "
                "transcribes: use a multilingual one"
            )
        last = () if timestamps else (self.no_timestamps,)
        if not self.is_multilingual:
            return (self.sot, *last)
        return (self.sot, self.special(f"<|{language}|>"), self.special(f"<|{task}|>"), *last)

    def context(self, text: str, max_tokens: int) -> tuple[int, ...]:
        """What stands before the start-of-transcript sequence: <|startofprev|> and the last tokens
        of a text; nothing for a text without words."""
        if not text.strip() or max_tokens < 1:
            return ()
        return (self.sot_prev, *self.encode(" " + text.strip())[-max_tokens:])

    def encode(self, text: str) -> list[int]:
        """Tokens of plain text; names of special tokens in it are spelled out, not interpreted."""
        return self._encoding.encode(text, disallowed_special=())

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens; special tokens have none. Bytes that are no UTF-8 become U+FFFD."""
        return self._encoding.decode(self.text_tokens(tokens))

    def text_tokens(self, tokens: Sequence[int]) -> list[int]:
        """Without timestamps and other special tokens."""
        return [token for token in tokens if token < self.eot]

    @cached_property
    def non_speech_tokens(self) -> tuple[int, ...]:
        """Tokens of speaker tags and annotations that nobody says: "♪♪", "(", "[", " -" ...

        The list is that of `non_speech_tokens` in openai/whisper.
        """
        symbols = list('"#()*+/:;<=>@[\\]^_`{|}~「」『』')
        symbols += "<< >> <<< >>> -- --- -( -[ (' (\" (( )) ((( ))) [[ ]] {{ }} ♪♪ ♪♪♪".split()
        found = {self.encode(" -")[0], self.encode(" '")[0]}
        for symbol in symbols:
            for tokens in (self.encode(symbol), self.encode(" " + symbol)):
                if len(tokens) == 1:
                    found.add(tokens[0])
        # Musical symbols share their first bytes, so that the first token is enough.
        for symbol in "♩♪♫♬♭♮♯":
            found.add(self.encode(symbol)[0])
            found.add(self.encode(" " + symbol)[0])
        return tuple(sorted(found))

    @cached_property
    def suppressed_tokens(self) -> tuple[int, ...]:
        """Tokens that are never chosen: non-speech ones and control tokens that ask, not answer.

        The list is that of `_get_suppress_tokens` in openai/whisper's `decoding.py`.
        """
        names = ("translate", "transcribe", "startoftranscript", "startoflm", "startofprev")
        control = {self.special(f"<|{name}|>") for name in (*names, "nospeech")}
        return tuple(sorted({*self.non_speech_tokens, *control}))

    @cached_property
    def suppressed_ids(self) -> npt.NDArray[np.intp]:
        """`suppressed_tokens` as an index into logits."""
        return np.array(self.suppressed_tokens, np.intp)

    @cached_property
    def blank_ids(self) -> npt.NDArray[np.intp]:
        """`blank_tokens` as an index into logits."""
        return np.array(self.blank_tokens, np.intp)

    @cached_property
    def blank_tokens(self) -> tuple[int, ...]:
        """Tokens that may not be the first one: a lone space, and the end."""
        return (*self.encode(" "), self.eot)
