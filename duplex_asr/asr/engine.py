"""The contract between the transcriber and a speech engine, whatever it runs on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from duplex_asr.asr.tokenizer import Tokenizer
from duplex_asr.cancellation import Cancellation

ShouldStop = Callable[[], bool]
OnToken = Callable[[int], None]
DecodeEnd = Literal["end_token", "max_tokens", "repetition", "stopped"]


# Which back ends can be asked for the language, take a prompt with context, and keep the rules for
# timestamps.
LANGUAGE_BACKENDS = CONTEXT_BACKENDS = ("onnx", "tensorrt", "cuda")
TIMESTAMP_BACKENDS = ("onnx", "tensorrt")


@dataclass(frozen=True)
class ModelDimensions:
    """Sizes of a Whisper model, named as in OpenAI's checkpoints."""

    n_mels: int
    n_audio_ctx: int
    n_audio_state: int
    n_audio_head: int
    n_audio_layer: int
    n_vocab: int
    n_text_ctx: int
    n_text_state: int
    n_text_head: int
    n_text_layer: int

    @property
    def is_multilingual(self) -> bool:
        return self.n_vocab >= 51865

    @property
    def max_context_tokens(self) -> int:
        """Tokens of context that Whisper was trained with at most: 223."""
        return self.n_text_ctx // 2 - 1


@dataclass(frozen=True)
class Decoding:
    """Result of greedy decoding; tokens exclude the prompt and the end token."""

    tokens: tuple[int, ...]
    token_logprobs: tuple[float, ...]  # one a token, plus the end token's when it was reached
    no_speech_prob: float
    end_reason: DecodeEnd
    num_drafted: int = 0  # tokens at the start that were taken over from the draft


@dataclass(frozen=True)
class DetectedLanguage:
    """The most probable language of an utterance, and its probability among all the model knows."""

    language: str
    probability: float


class EncodedAudio(Protocol):
    """Cross-attention keys and values of one utterance, held until released."""

    def release(self) -> None: ...


class SpeechEngine(Protocol):
    """Runs one Whisper model: `encode` once an utterance, then `decode`.

    Calls come from one thread at a time. `backend` as in the manifest. `thresholds` are the model's
    own values for settings of TranscriptionConfig, by name; usually there are none.
    """

    name: str
    backend: str
    dimensions: ModelDimensions
    tokenizer: Tokenizer
    thresholds: dict[str, float]

    def encode(
        self, mel: npt.NDArray[np.float32], cancellation: Cancellation | None = None
    ) -> EncodedAudio:
        """Run the encoder on a log-mel spectrogram, shape = (n_mels, 3000).

        Raises Cancelled within 20 ms of the cancellation, or before it begins if it takes less.
        """
        ...

    def detect_language(self, encoded: EncodedAudio) -> DetectedLanguage:
        """Ask a multilingual model which language is spoken; LANGUAGE_BACKENDS can."""
        ...

    def decode(
        self,
        encoded: EncodedAudio,
        prompt: Sequence[int],
        max_new_tokens: int,
        *,
        draft: Sequence[int] = (),
        should_stop: ShouldStop | None = None,
        on_token: OnToken | None = None,
        stop_on_repetition: bool = True,
    ) -> Decoding:
        """Decode greedily after `prompt` (start-of-transcript sequence, n <= n_text_ctx).

        A prompt without <|notimestamps|> asks for timestamps, which TIMESTAMP_BACKENDS can give.
        draft: an earlier answer to nearly the same sound; it changes the time, never the result.
        on_token: given each token of the result as it is known, in order.
        """
        ...

    def close(self) -> None: ...
