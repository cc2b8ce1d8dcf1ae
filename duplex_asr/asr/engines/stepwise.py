"""What engines have in common whose decoder runs token by token under Python's eyes."""

from __future__ import annotations

from collections import abc

import numpy as np
import numpy.typing as npt

from duplex_asr.asr.decoding import Sequence, detect_language, greedy_decode
from duplex_asr.asr.engine import (
    Decoding,
    DetectedLanguage,
    EncodedAudio,
    ModelDimensions,
    OnToken,
    ShouldStop,
)
from duplex_asr.asr.tokenizer import Tokenizer


class StepwiseEngine:
    """Greedy decoding over sequences that an engine makes; see SpeechEngine for the contract."""

    dimensions: ModelDimensions
    tokenizer: Tokenizer

    def new_sequence(self, encoded: EncodedAudio) -> Sequence:
        """No tokens yet; `encoded` is what this engine's `encode` returned."""
        raise NotImplementedError

    def decode(
        self,
        encoded: EncodedAudio,
        prompt: abc.Sequence[int],
        max_new_tokens: int,
        *,
        draft: abc.Sequence[int] = (),
        should_stop: ShouldStop | None = None,
        on_token: OnToken | None = None,
        stop_on_repetition: bool = True,
    ) -> Decoding:
        room = self.dimensions.n_text_ctx - len(prompt)
        return greedy_decode(
            self.new_sequence(encoded),
            self.tokenizer,
            prompt,
            min(max_new_tokens, room),
            draft=draft,
            should_stop=should_stop,
            on_token=on_token,
            stop_on_repetition=stop_on_repetition,
        )

    def detect_language(self, encoded: EncodedAudio) -> DetectedLanguage:
        return detect_language(self.logits(encoded, [self.tokenizer.sot])[0], self.tokenizer)

    def logits(self, encoded: EncodedAudio, tokens: abc.Sequence[int]) -> npt.NDArray[np.float32]:
        """Logits of a whole sequence in one pass, shape = (n, n_vocab): for comparing engines."""
        return self.new_sequence(encoded).advance(tokens)
