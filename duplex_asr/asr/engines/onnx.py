"""The engine for any processor: onnxruntime runs the two graphs of asr/export/fused_graphs.py."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from duplex_asr.asr.engine import EncodedAudio, ModelDimensions
from duplex_asr.asr.engines.embedding import EmbeddingRows
from duplex_asr.asr.engines.own_operators import LIBRARY_NAME, packed_size, register_operators
from duplex_asr.asr.engines.stepwise import StepwiseEngine
from duplex_asr.asr.manifest import EMBEDDING, FUSED_OPERATORS, TOKENIZER_NAME, Manifest
from duplex_asr.asr.mel import N_FRAMES
from duplex_asr.asr.processor import has_block_products, has_exact_int8_products
from duplex_asr.asr.tokenizer import Tokenizer, read_ranks
from duplex_asr.cancellation import Cancellation, Cancelled
from duplex_asr.errors import EngineError

ENCODER_NAME = "encoder.onnx"
DECODER_NAME = "decoder.onnx"
_CROSS, _PACKED = "cross_", "cross_kv_"  # of keys and values that the encoder gives the decoder
_MAX_DEFAULT_THREADS = (
    4  # beyond that a batch of one gains little and the rest of the machine loses
)


@dataclass
class OnnxEncodedAudio:
    """Cross-attention keys and values by input name of the decoder, as onnxruntime values."""

    cross_kv: dict[str, Any]

    def release(self) -> None:
        self.cross_kv = {}


class OnnxSequence:
    """The tokens of one decoding: the graph returns the grown keys and values with each step."""

    def __init__(
        self,
        decoder: Any,
        embedding: EmbeddingRows,
        dimensions: ModelDimensions,
        encoded: OnnxEncodedAudio,
    ) -> None:
        import onnxruntime

        assert encoded.cross_kv, "audio was released"
        self._new_value = onnxruntime.OrtValue.ortvalue_from_numpy
        self._decoder = decoder
        self._embedding = embedding
        self._encoded = encoded
        self._names = [
            f"self_{part}_{index}"
            for index in range(dimensions.n_text_layer)
            for part in ("key", "value")
        ]
        self._outputs = ["logits", *(f"new_{name}" for name in self._names)]
        heads = dimensions.n_text_head
        empty = np.zeros((1, heads, 0, dimensions.n_text_state // heads), np.float32)
        self._values = [self._new_value(empty) for _ in self._names]
        self._num_tokens = 0

    def advance(self, tokens: Sequence[int]) -> npt.NDArray[np.float32]:
        return self._forward(tokens, range(len(tokens)))

    def append(self, tokens: Sequence[int]) -> None:
        # One at least: onnxruntime does not multiply no rows everywhere.
        self._forward(tokens, (0,))

    def _forward(self, tokens: Sequence[int], wanted: Sequence[int]) -> npt.NDArray[np.float32]:
        """Append tokens and return the logits after those of the indices that are wanted."""
        feeds = {
            "embedded": self._new_value(self._embedding.of(tokens)),
            "wanted": self._new_value(np.asarray(wanted, np.int64)),
            **dict(zip(self._names, self._values, strict=True)),
            **self._encoded.cross_kv,
        }
        logits, *self._values = self._decoder.run_with_ort_values(self._outputs, feeds)
        self._num_tokens += len(tokens)
        result: npt.NDArray[np.float32] = logits.numpy()
        return result

    def truncate(self, num_tokens: int) -> None:
        if num_tokens == self._num_tokens:
            return
        assert num_tokens < self._num_tokens
        kept = (np.ascontiguousarray(each.numpy()[:, :, :num_tokens]) for each in self._values)
        self._values = [self._new_value(each) for each in kept]
        self._num_tokens = num_tokens


class OnnxEngine(StepwiseEngine):
    """Whisper on the CPU through onnxruntime; see SpeechEngine for the contract."""

    backend = "onnx"

    def __init__(
        self,
        manifest: Manifest,
        tokenizer: Tokenizer,
        encoder: Any,
        decoder: Any,
        embedding: EmbeddingRows,
    ) -> None:
        self.name = manifest.name
        self.dimensions = manifest.dimensions
        self.tokenizer = tokenizer
        self.thresholds = dict(manifest.decoding)
        self._encoder = encoder
        self._decoder = decoder
        self._embedding = embedding
        self._cross_names = [
            each.name for each in decoder.get_inputs() if each.name.startswith(_CROSS)
        ]

    @classmethod
    def load(cls, folder: Path, manifest: Manifest, threads: int = 0) -> OnnxEngine:
        """Load an engine folder whose files have been checked. Raises EngineError."""
        ranks = read_ranks(folder / TOKENIZER_NAME)
        dimensions = manifest.dimensions
        tokenizer = Tokenizer(ranks, dimensions.n_vocab, dimensions.is_multilingual)
        own = LIBRARY_NAME in manifest.files
        encoder = _make_session(folder / ENCODER_NAME, threads, has_own_operators=own)
        decoder = _make_session(folder / DECODER_NAME, threads, has_own_operators=own, spins=True)
        _check_graphs(folder, dimensions, encoder, decoder)
        place = decoder.get_modelmeta().custom_metadata_map[EMBEDDING]
        embedding = EmbeddingRows(folder, place, dimensions.n_vocab, dimensions.n_text_state)
        return cls(manifest, tokenizer, encoder, decoder, embedding)

    def encode(
        self, mel: npt.NDArray[np.float32], cancellation: Cancellation | None = None
    ) -> OnnxEncodedAudio:
        import onnxruntime

        expected = (self.dimensions.n_mels, N_FRAMES)
        if mel.shape != expected or mel.dtype != np.float32:
            raise ValueError(
                f"mel is {mel.dtype} {mel.shape}, the encoder takes float32 {expected}"
            )
        feeds = {"mel": onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(mel))}
        outputs = _run(self._encoder, self._cross_names, feeds, cancellation or Cancellation())
        return OnnxEncodedAudio(dict(zip(self._cross_names, outputs, strict=True)))

    def audio_features(self, mel: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """The encoder's output, shape = (1500, n_audio_state): for comparing engines."""
        features: npt.NDArray[np.float32] = self._encoder.run(["audio_features"], {"mel": mel})[0]
        return features

    def new_sequence(self, encoded: EncodedAudio) -> OnnxSequence:
        assert isinstance(encoded, OnnxEncodedAudio)
        return OnnxSequence(self._decoder, self._embedding, self.dimensions, encoded)

    def close(self) -> None:
        self._encoder = self._decoder = None
        self._embedding.close()


def _run(
    session: Any, outputs: list[str], feeds: dict[str, Any], cancellation: Cancellation
) -> list[Any]:
    """Run a graph; raises Cancelled when onnxruntime has left it between two of its operators."""
    import onnxruntime
    from onnxruntime.capi.onnxruntime_pybind11_state import Fail

    options = onnxruntime.RunOptions()
    with cancellation.interrupting(lambda: setattr(options, "terminate", True)):
        try:
            values: list[Any] = session.run_with_ort_values(outputs, feeds, options)
        except Fail as error:
            if cancellation.is_set:
                raise Cancelled from error
            raise
    return values


def _check_graphs(folder: Path, dimensions: ModelDimensions, encoder: Any, decoder: Any) -> None:
    """Raise EngineError unless the graphs have the names and sizes that the manifest announces, and
    suit this processor."""
    import onnxruntime

    fused = decoder.get_modelmeta().custom_metadata_map.get(FUSED_OPERATORS, "")
    if "MatMulNBits" in fused and not has_block_products(onnxruntime.__version__):
        raise EngineError(
            f"{folder} was built on a machine whose processor or onnxruntime can do more: with "
            f"onnxruntime {onnxruntime.__version__} it would be many times slower; build it here "
            "with `duplex-asr build --precision int8`"
        )
    own = any(each.name.startswith(_PACKED) for each in decoder.get_inputs())
    expected = {"mel": [dimensions.n_mels, N_FRAMES]} | _cross_shapes(dimensions, own)
    found = {each.name: each.shape for each in (*encoder.get_inputs(), *encoder.get_outputs())}
    found.pop("audio_features", None)
    taken = {each.name: each.shape for each in decoder.get_inputs()}
    if "embedded" not in taken:
        raise EngineError(
            f"{folder} was built by an older version of this program: build it again with "
            "`duplex-asr build`"
        )
    taken = {name: shape for name, shape in taken.items() if name.startswith(_CROSS)}
    logits = {each.name: each.shape for each in decoder.get_outputs()}["logits"]
    is_ours = found == expected and taken == {k: v for k, v in expected.items() if k != "mel"}
    if not is_ours or logits[-1] != dimensions.n_vocab:
        raise EngineError(
            f"the graphs in {folder} are not those that its manifest describes: build the engine "
            "again with `duplex-asr build`"
        )


def _cross_shapes(dimensions: ModelDimensions, is_packed: bool) -> dict[str, list[int]]:
    """The cross-attention keys and values that the graphs pass on, by their names."""
    heads, positions = dimensions.n_text_head, dimensions.n_audio_ctx
    head_size = dimensions.n_text_state // heads
    shapes = {}
    for index in range(dimensions.n_text_layer):
        if is_packed:
            shapes[f"{_PACKED}{index}"] = [heads, packed_size(positions)]
        else:
            shapes[f"cross_key_{index}"] = [heads, head_size, positions]
            shapes[f"cross_value_{index}"] = [heads, positions, head_size]
    return shapes


def _make_session(path: Path, threads: int, has_own_operators: bool, spins: bool = False) -> Any:
    """spins: threads stay awake between the operators of a run, for whose many small products they
    would else come too late; after it they sleep, so that a daemon is idle between utterances."""
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or min(_MAX_DEFAULT_THREADS, _num_usable_cores())
    options.inter_op_num_threads = 1
    # A pattern would set aside room for all values of a run on top of what the first run has taken.
    options.enable_mem_pattern = False
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spins else "0")
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if not has_exact_int8_products():  # widens the weights then: exact everywhere, and slower here
        options.add_session_config_entry("session.x64quantprecision", "1")
    options.log_severity_level = 3
    if has_own_operators:
        register_operators(options, path.parent)
    # onnxruntime's exceptions have no base class of their own.
    names = ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NoModel", "NoSuchFile")
    errors = tuple(getattr(state, name) for name in (*names, "NotImplemented", "RuntimeException"))
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except errors as error:
        reason = str(error).strip().splitlines()[0]
        raise EngineError(
            f"onnxruntime {onnxruntime.__version__} cannot load {path} ({reason}): build the "
            "engine again with `duplex-asr build`"
        ) from error


def _num_usable_cores() -> int:
    return len(os.sched_getaffinity(0))
