"""The native engine for an NVIDIA GPU: engines/cuda in C++ and CUDA, called by ctypes and numpy.

The whole path from the spectrogram to the tokens runs on the GPU, decoding too; Python hands over
pointers. Weights are mapped from the engine folder and copied to the GPU once.
"""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from ctypes import byref, c_int32, c_int64, c_void_p
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from duplex_asr.asr.decoding import detect_language
from duplex_asr.asr.engine import (
    Decoding,
    DetectedLanguage,
    EncodedAudio,
    ModelDimensions,
    OnToken,
    ShouldStop,
)
from duplex_asr.asr.engines import cuda_library as dw
from duplex_asr.asr.engines.cuda_answer import CudaAnswer
from duplex_asr.asr.manifest import TOKENIZER_NAME, Manifest
from duplex_asr.asr.mel import N_FRAMES
from duplex_asr.asr.self_test import SELF_TEST_NAME, SelfTest, self_test_mel
from duplex_asr.asr.tensor_file import map_tensors
from duplex_asr.asr.tokenizer import Tokenizer, read_ranks
from duplex_asr.cancellation import Cancellation
from duplex_asr.errors import EngineError, OutOfBlocksError
from duplex_asr.settings import setting

logger = logging.getLogger(__name__)

WEIGHTS_NAME = "weights.safetensors"
EMBEDDING = "decoder.token_embedding.weight"
LAYER_MATRIX = "decoder.blocks.0.attn.query.weight"  # all the decoder's layers are stored like it
_MAX_ENCODE_BATCH = 32
_REPORT_BYTES = 64 << 20  # progress is said each time so much more is on the GPU


@dataclass(frozen=True)
class CudaConfig:
    """What the native engine takes of the GPU; engines of other back ends do not look at it."""

    library: str = ""  # the engine library; empty: the engine folder's, then the checkout's
    device: int = setting(0, minimum=0, maximum=63)
    block_tokens: int = setting(16, choices=(8, 16, 32, 64))
    pool_tokens: int = setting(640, minimum=64, maximum=1_000_000)
    max_audios: int = setting(2, minimum=1, maximum=1024)
    chunk_tokens: int = setting(32, minimum=1, maximum=32)
    timeout_ms: int = setting(5000, minimum=1, maximum=600_000)


class CudaEncodedAudio:
    """Cross-attention keys and values of one utterance on the GPU."""

    def __init__(self, engine: CudaEngine, handle: c_void_p) -> None:
        self._engine = engine
        self._handle = handle

    @property
    def handle(self) -> c_void_p:
        assert self._handle, "audio was released"
        return self._handle

    def release(self) -> None:
        if self._handle:
            self._engine.forget(self)
            self._engine.library.plain("dw_audio_release", self._handle)
            self._handle = c_void_p()


class CudaSequence:
    """The tokens of one decoding by hand; `close` gives its blocks back to the pool."""

    def __init__(self, engine: CudaEngine, encoded: CudaEncodedAudio) -> None:
        self._library = engine.library
        self._n_vocab = engine.dimensions.n_vocab
        self._handle = c_void_p()
        self._library.call("dw_sequence_open", engine.handle, encoded.handle, byref(self._handle))

    def advance(self, tokens: Sequence[int]) -> npt.NDArray[np.float32]:
        logits = np.empty((len(tokens), self._n_vocab), np.float32)
        given = dw.int32_array(tokens)
        self._library.call(
            "dw_sequence_advance", self._handle, given, len(tokens), logits.ctypes.data
        )
        return logits

    def truncate(self, num_tokens: int) -> None:
        self._library.call("dw_sequence_truncate", self._handle, num_tokens)

    def close(self) -> None:
        self._library.plain("dw_sequence_close", self._handle)
        self._handle = c_void_p()


class CudaEngine:
    """Whisper on the GPU by our own kernels; see SpeechEngine for the contract.

    Out of KV memory, `encode` and `decode` raise OutOfBlocksError for that one request. After
    GpuLostError nothing works any more. `should_stop` is asked after at most
    `chunk_tokens` tokens, or about 8 ms.
    """

    backend = "cuda"

    def __init__(
        self, manifest: Manifest, tokenizer: Tokenizer, library: dw.CudaLibrary, handle: c_void_p
    ) -> None:
        self.name = manifest.name
        self.dimensions = manifest.dimensions
        self.tokenizer = tokenizer
        self.thresholds = dict(manifest.decoding)
        self.library = library
        self.handle = handle
        self._audios: set[CudaEncodedAudio] = set()  # not released yet

    @classmethod
    def load(
        cls, folder: Path, manifest: Manifest, config: CudaConfig, max_batch: int = 1
    ) -> CudaEngine:
        """Load an engine folder whose files have been checked, and compute its self-test.

        max_batch: how many utterances `encode_batch` and `decode_batch` take at once.
        Raises EngineError.
        """
        for name in (WEIGHTS_NAME, SELF_TEST_NAME):
            if name not in manifest.files:
                raise EngineError(
                    f"{folder} has no {name}: build the engine again with "
                    "`duplex-asr build CHECKPOINT.pt --backend cuda`"
                )
        dimensions = manifest.dimensions
        ranks = read_ranks(folder / TOKENIZER_NAME)
        tokenizer = Tokenizer(ranks, dimensions.n_vocab, dimensions.is_multilingual)
        self_test = SelfTest.read(folder / SELF_TEST_NAME)
        tensors = map_tensors(folder / WEIGHTS_NAME)
        library = dw.CudaLibrary(dw.find_library(config.library, folder))
        options = _options(config, tokenizer, tensors, dimensions, max_batch)
        handle = c_void_p()
        sizes = dw.Dimensions(**asdict(dimensions))
        library.call("dw_create", byref(sizes), byref(options), byref(handle))
        engine = cls(manifest, tokenizer, library, handle)
        with ExitStack() as on_error:
            on_error.callback(engine.close)
            engine._upload(tensors)
            engine._check(folder, self_test)
            on_error.pop_all()
        return engine

    def encode(
        self, mel: npt.NDArray[np.float32], cancellation: Cancellation | None = None
    ) -> CudaEncodedAudio:
        (cancellation or Cancellation()).check()  # the encoder takes less than an interruption
        self._check_mel(mel)
        mel, handle = np.ascontiguousarray(mel), c_void_p()
        self.library.call("dw_encode", self.handle, mel.ctypes.data, byref(handle))
        return self._keep(handle)

    def encode_batch(self, mels: npt.NDArray[np.float32]) -> list[CudaEncodedAudio]:
        """Encode several spectrograms, shape = (num, n_mels, 3000), or none of them."""
        self._check_mel(mels[0])
        handles = (c_void_p * len(mels))()
        mels = np.ascontiguousarray(mels)
        self.library.call("dw_encode_batch", self.handle, mels.ctypes.data, len(mels), handles)
        return [self._keep(c_void_p(each)) for each in handles]

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
        assert isinstance(encoded, CudaEncodedAudio)
        most = min(max_new_tokens, self.dimensions.n_text_ctx - len(prompt))
        sot = self.tokenizer.sot
        if self.tokenizer.no_timestamps not in prompt:
            raise EngineError(
                "the GPU chooses tokens without the rules for timestamps: end the prompt with "
                "<|notimestamps|>, or use an engine of the back end onnx or tensorrt"
            )
        answer = CudaAnswer(prompt, sot, most, draft, should_stop, stop_on_repetition, on_token)
        self.library.call(
            "dw_decode", self.handle, encoded.handle, byref(answer.request), byref(answer.result)
        )
        return answer.decoding()

    def detect_language(self, encoded: EncodedAudio) -> DetectedLanguage:
        assert isinstance(encoded, CudaEncodedAudio)
        return detect_language(self.logits(encoded, [self.tokenizer.sot])[0], self.tokenizer)

    def decode_batch(
        self,
        audios: Sequence[CudaEncodedAudio],
        prompt: Sequence[int],
        max_new_tokens: int,
        *,
        stop_on_repetition: bool = True,
    ) -> list[Decoding | OutOfBlocksError]:
        """Decode several at once; one that the pool has no blocks for gets its error.

        For throughput: a few utterances are faster by `decode`, one after the other.
        """
        num = len(audios)
        most = min(max_new_tokens, self.dimensions.n_text_ctx - len(prompt))
        sot = self.tokenizer.sot
        answers = [CudaAnswer(prompt, sot, most, (), None, stop_on_repetition) for _ in audios]
        handles = (c_void_p * num)(*(each.handle for each in audios))
        requests = (dw.Request * num)(*(each.request for each in answers))
        results = (dw.Result * num)(*(each.result for each in answers))
        statuses = (c_int32 * num)()
        self.library.call("dw_decode_batch", self.handle, num, handles, requests, results, statuses)
        decodings: list[Decoding | OutOfBlocksError] = []
        for answer, result, status in zip(answers, results, statuses, strict=True):
            if status == dw.OUT_OF_BLOCKS:
                decodings.append(OutOfBlocksError("the KV pool had no block left for it"))
            else:
                answer.result = result
                decodings.append(answer.decoding())
        return decodings

    def encode_with_features(
        self, mel: npt.NDArray[np.float32]
    ) -> tuple[CudaEncodedAudio, npt.NDArray[np.float32]]:
        """`encode`, and the encoder's output, shape = (1500, n_audio_state)."""
        self._check_mel(mel)
        shape = (self.dimensions.n_audio_ctx, self.dimensions.n_audio_state)
        features = np.empty(shape, np.float32)
        handle = c_void_p()
        self.library.call(
            "dw_encode_features", self.handle, np.ascontiguousarray(mel).ctypes.data,
            byref(handle), features.ctypes.data,
        )  # fmt: skip
        return self._keep(handle), features

    def audio_features(self, mel: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """The encoder's output, shape = (1500, n_audio_state): for comparing engines."""
        encoded, features = self.encode_with_features(mel)
        encoded.release()
        return features

    def new_sequence(self, encoded: CudaEncodedAudio) -> CudaSequence:
        """No tokens yet; sequences share the pool with decodings until they are closed."""
        return CudaSequence(self, encoded)

    def logits(self, encoded: CudaEncodedAudio, tokens: Sequence[int]) -> npt.NDArray[np.float32]:
        """Logits of a whole sequence in one pass, shape = (n, n_vocab): for comparing engines."""
        sequence = self.new_sequence(encoded)
        try:
            return sequence.advance(tokens)
        finally:
            sequence.close()

    def memory(self) -> dw.MemoryInfo:
        """What the engine holds, in bytes, blocks and places for audio."""
        info = dw.MemoryInfo()
        self.library.call("dw_memory", self.handle, byref(info))
        return info

    def forget(self, audio: CudaEncodedAudio) -> None:
        """An audio is being released."""
        self._audios.discard(audio)

    def close(self) -> None:
        for audio in tuple(self._audios):
            audio.release()
        self.library.plain("dw_destroy", self.handle)
        self.handle = c_void_p()

    def _keep(self, handle: c_void_p) -> CudaEncodedAudio:
        audio = CudaEncodedAudio(self, handle)
        self._audios.add(audio)
        return audio

    def _check_mel(self, mel: npt.NDArray[np.float32]) -> None:
        expected = (self.dimensions.n_mels, N_FRAMES)
        if mel.shape != expected or mel.dtype != np.float32:
            raise ValueError(
                f"mel is {mel.dtype} {mel.shape}, the encoder takes float32 {expected}"
            )

    def _upload(self, tensors: Mapping[str, npt.NDArray[Any]]) -> None:
        """Copy all weights to the GPU and say how far it is."""
        total = sum(each.nbytes for each in tensors.values())
        done = said = 0
        for name, values in tensors.items():
            shape = (c_int64 * values.ndim)(*values.shape)
            self.library.call(
                "dw_add_tensor", self.handle, name.encode(), _TYPES[values.dtype], values.ndim,
                shape, values.ctypes.data, values.nbytes,
            )  # fmt: skip
            done += values.nbytes
            if done - said >= _REPORT_BYTES or done == total:
                said = done
                logger.info(
                    "%s: %d of %d MB of weights are loaded", self.name, done >> 20, total >> 20
                )
        self.library.call("dw_finish", self.handle)

    def _check(self, folder: Path, self_test: SelfTest) -> None:
        """Raise EngineError unless a small stored case comes out as it should."""
        encoded, features = self.encode_with_features(self_test_mel(self.dimensions.n_mels))
        logits = self.logits(encoded, self_test.tokens)
        encoded.release()
        if problem := self_test.problem(features, logits):
            raise EngineError(
                f"the engine in {folder} computes wrong numbers with {self.library.path} "
                f"({problem}): build both again, {dw.HOW_TO_BUILD}"
            )


_TYPES = {
    np.dtype(np.float16): dw.FP16,
    np.dtype(np.float32): dw.FP32,
    np.dtype(np.uint8): dw.INT8,
}


def _options(
    config: CudaConfig,
    tokenizer: Tokenizer,
    tensors: Mapping[str, npt.NDArray[Any]],
    dimensions: ModelDimensions,
    max_batch: int,
) -> dw.Options:
    suppress, first = tokenizer.suppressed_tokens, tokenizer.blank_tokens
    width = dimensions.n_text_state
    return dw.Options(
        struct_bytes=ctypes.sizeof(dw.Options),
        device=config.device,
        layer_type=_stored_type(tensors, LAYER_MATRIX, width),
        embedding_type=_stored_type(tensors, EMBEDDING, width),
        block_tokens=config.block_tokens,
        pool_tokens=config.pool_tokens,
        max_audios=config.max_audios,
        max_batch=max_batch,
        encode_batch=min(max_batch, _MAX_ENCODE_BATCH),
        chunk_tokens=config.chunk_tokens,
        timeout_ms=config.timeout_ms,
        eot=tokenizer.eot,
        no_speech=tokenizer.no_speech,
        num_suppress=len(suppress),
        suppress=dw.int32_array(suppress),
        num_suppress_first=len(first),
        suppress_first=dw.int32_array(first),
    )


def _stored_type(tensors: Mapping[str, npt.NDArray[Any]], name: str, width: int) -> int:
    """fp16, int8 or int4, as the matrix is stored."""
    values = tensors.get(name)
    if values is None:
        raise EngineError(
            f"the weights have no {name}: build the engine again with `duplex-asr build`"
        )
    if values.dtype != np.uint8:
        return dw.FP16
    return dw.INT8 if values.shape[-1] == width else dw.INT4
