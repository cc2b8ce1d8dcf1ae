"""The engine for TensorRT-LLM: 0.12 on JetPack 6, and later versions up to 1.2.

Engines are built on the machine that runs them, by build_scripts/. Neither runtime can verify a
draft, so drafts are ignored; the result is the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from duplex_asr.asr.engine import (
    Decoding,
    DetectedLanguage,
    EncodedAudio,
    OnToken,
    ShouldStop,
)
from duplex_asr.asr.engines.tensorrt import check_gpu
from duplex_asr.asr.engines.trtllm_config import (
    FIRST_WITHOUT_ENGINES,
    REBUILD,
    TrtLlmConfig,
    parse_version,
    read_config,
)
from duplex_asr.asr.engines.trtllm_errors import explained
from duplex_asr.asr.engines.trtllm_executor import TrtLlmExecutor
from duplex_asr.asr.engines.trtllm_session import TrtLlmSession
from duplex_asr.asr.manifest import TOKENIZER_NAME, Manifest
from duplex_asr.asr.mel import N_FRAMES
from duplex_asr.asr.tokenizer import Tokenizer, read_ranks
from duplex_asr.cancellation import Cancellation
from duplex_asr.errors import EngineError


class TrtLlmEncodedAudio:
    """What the decoder needs of one utterance, on the GPU."""

    def __init__(self, features: Any) -> None:
        self.features = features

    def release(self) -> None:
        self.features = None


class TrtLlmEngine:
    """Whisper on the GPU through TensorRT-LLM; see SpeechEngine for the contract."""

    backend = "trtllm"

    def __init__(
        self,
        manifest: Manifest,
        tokenizer: Tokenizer,
        config: TrtLlmConfig,
        runtime: TrtLlmSession | TrtLlmExecutor,
    ) -> None:
        self.name = manifest.name
        self.dimensions = manifest.dimensions
        self.tokenizer = tokenizer
        self.thresholds = dict(manifest.decoding)
        self._config = config
        self._runtime = runtime

    @classmethod
    def load(cls, folder: Path, manifest: Manifest) -> TrtLlmEngine:
        """Load an engine folder whose files have been checked. Raises EngineError."""
        config = read_config(folder, manifest)
        dimensions = manifest.dimensions
        ranks = read_ranks(folder / TOKENIZER_NAME)
        tokenizer = Tokenizer(ranks, dimensions.n_vocab, dimensions.is_multilingual)
        with explained(folder, "importing TensorRT-LLM for"):  # it loads its plugins at once
            _check_version(config)
        import torch  # it came with tensorrt_llm

        with explained(folder, "checking the GPU for"):
            capability = "{}{}".format(*torch.cuda.get_device_capability())
        check_gpu(folder, manifest, capability, REBUILD)
        runtime = TrtLlmExecutor if config.runs_in_executor else TrtLlmSession
        return cls(manifest, tokenizer, config, runtime(config, tokenizer))

    def encode(
        self, mel: npt.NDArray[np.float32], cancellation: Cancellation | None = None
    ) -> TrtLlmEncodedAudio:
        if cancellation is not None:
            cancellation.check()  # a GPU's encoder is done before it could be interrupted
        expected = (self.dimensions.n_mels, N_FRAMES)
        if mel.shape != expected or mel.dtype != np.float32:
            raise ValueError(
                f"mel is {mel.dtype} {mel.shape}, the encoder takes float32 {expected}"
            )
        if self._config.padding == "trim":
            mel = mel[:, : frames_of_sound(mel)]
        return TrtLlmEncodedAudio(self._runtime.encode(mel))

    def detect_language(self, encoded: EncodedAudio) -> DetectedLanguage:
        raise EngineError(
            "TensorRT-LLM engines cannot be asked for the language: name it in "
            "transcription.language, or use an engine of another back end"
        )

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
        assert isinstance(encoded, TrtLlmEncodedAudio)
        assert encoded.features is not None, "audio was released"
        if len(prompt) > self._config.max_input_len:
            raise EngineError(
                f"wrong prompt: {len(prompt)} tokens, and the decoder in {self._config.folder} was "
                f"built for {self._config.max_input_len}: {REBUILD}"
            )
        if self.tokenizer.sot not in prompt:
            raise EngineError("wrong prompt: it has no <|startoftranscript|>")
        if self.tokenizer.no_timestamps not in prompt:
            raise EngineError("wrong prompt: TensorRT-LLM engines need <|notimestamps|> in it")
        if should_stop is not None and should_stop():
            return Decoding((), (), 0.0, "stopped")
        room = min(self.dimensions.n_text_ctx, self._config.max_seq_len) - len(prompt)
        return self._runtime.decode(
            encoded.features, prompt, min(max_new_tokens, room), should_stop, stop_on_repetition,
            on_token,
        )  # fmt: skip

    def close(self) -> None:
        self._runtime.close()


def frames_of_sound(mel: npt.NDArray[np.float32]) -> int:
    """Frames up to where the padding begins, an even number: silence repeats its last column."""
    differs = np.flatnonzero((mel != mel[:, -1:]).any(axis=0))
    last = int(differs[-1]) + 1 if differs.size else 1
    return min(int(mel.shape[1]), last + last % 2)


def _check_version(config: TrtLlmConfig) -> None:
    try:
        import tensorrt_llm
        import torch  # noqa: F401 - tensorrt_llm computes with it
    except ImportError as error:
        raise EngineError(
            f"TensorRT-LLM cannot be imported ({error}): docs/jetson.md names its wheel, or build "
            "plain TensorRT plans with `build_scripts/build_tensorrt.sh`, which need none"
        ) from error
    running = str(tensorrt_llm.__version__)
    built = ".".join(map(str, config.version))
    if parse_version(running) >= FIRST_WITHOUT_ENGINES:
        raise EngineError(
            f"TensorRT-LLM {running} runs no engines any more: install one before 1.3, or build "
            "plain TensorRT plans with `build_scripts/build_tensorrt.sh`"
        )
    if parse_version(running) != config.version:
        raise EngineError(
            f"{config.folder} was built by TensorRT-LLM {built} and here runs {running}, which "
            f"cannot read it: {REBUILD}"
        )
