"""The engine for an NVIDIA GPU: TensorRT plans of the graphs of asr/export/static_graphs.py.

The plans are built on the board that runs them, by build_scripts/build_tensorrt.sh.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import numpy.typing as npt

from duplex_asr.asr.engine import EncodedAudio, ModelDimensions
from duplex_asr.asr.engines.stepwise import StepwiseEngine
from duplex_asr.asr.manifest import ENGINE_PARTS, TOKENIZER_NAME, Manifest
from duplex_asr.asr.mel import N_FRAMES
from duplex_asr.asr.tokenizer import Tokenizer, read_ranks
from duplex_asr.cancellation import Cancellation
from duplex_asr.errors import EngineError
from duplex_asr.gpu import DeviceArray, DeviceBuffer, Gpu
from duplex_asr.tensorrt_session import TensorRtSession, TensorSpec, import_tensorrt

_REBUILD = "build its plans again on this machine with `build_scripts/build_tensorrt.sh`"


class TensorRtEncodedAudio:
    """Cross-attention keys and values on the GPU, by input name of the decoder."""

    def __init__(
        self, cross_kv: dict[str, DeviceArray], give_back: Callable[[dict[str, DeviceArray]], None]
    ) -> None:
        self.cross_kv = cross_kv
        self._give_back = give_back

    def release(self) -> None:
        if self.cross_kv:
            self._give_back(self.cross_kv)
        self.cross_kv = {}


class TensorRtSequence:
    """The tokens of one decoding, as rows of the engine's self-attention buffers."""

    def __init__(self, engine: TensorRtEngine, encoded: TensorRtEncodedAudio) -> None:
        assert encoded.cross_kv, "audio was released"
        self._engine = engine
        self._encoded = encoded
        self._num_tokens = 0

    def advance(self, tokens: Sequence[int]) -> npt.NDArray[np.float32]:
        most = self._engine.max_tokens_at_once
        pieces = [tokens[start : start + most] for start in range(0, len(tokens), most)]
        return np.concatenate([self._advance_by(piece) for piece in pieces])

    def append(self, tokens: Sequence[int]) -> None:
        self.advance(tokens)

    def truncate(self, num_tokens: int) -> None:
        assert num_tokens <= self._num_tokens
        self._num_tokens = num_tokens  # later rows are masked until they are written again

    def _advance_by(self, tokens: Sequence[int]) -> npt.NDArray[np.float32]:
        logits = self._engine.step(self._encoded, tokens, self._num_tokens)
        self._num_tokens += len(tokens)
        return logits


class TensorRtEngine(StepwiseEngine):
    """Whisper on the GPU through TensorRT; see SpeechEngine for the contract."""

    backend = "tensorrt"

    def __init__(
        self,
        manifest: Manifest,
        tokenizer: Tokenizer,
        gpu: Gpu,
        encoder: TensorRtSession,
        decoder: TensorRtSession,
    ) -> None:
        self.name = manifest.name
        self.dimensions = manifest.dimensions
        self.tokenizer = tokenizer
        self.thresholds = dict(manifest.decoding)
        self._gpu = gpu
        self._encoder = encoder
        self._decoder = decoder
        self.max_tokens_at_once = decoder.inputs["tokens"].most[0]
        self._buffers: list[DeviceBuffer] = []
        # Memory of released utterances for the next ones: taking it anew each time would break
        # the little that a Jetson has into pieces.
        self._spare_cross_kv: list[dict[str, DeviceArray]] = []
        rows = {name: spec for name, spec in decoder.inputs.items() if name.startswith("self_")}
        self._self_kv = self._allocate(rows, "self-attention keys and values")
        with gpu:
            # Rows not yet written are masked, which does not help against NaN in old memory.
            for array in self._self_kv.values():
                gpu.clear(array.address, array.nbytes)
            gpu.wait()

    @classmethod
    def load(cls, folder: Path, manifest: Manifest) -> TensorRtEngine:
        """Load an engine folder whose files have been checked. Raises EngineError."""
        dimensions = manifest.dimensions
        for part in ENGINE_PARTS:
            if f"{part}.plan" not in manifest.files:
                raise EngineError(
                    f"{folder} has graphs and no plans yet: build them on this machine with "
                    f"`build_scripts/build_tensorrt.sh {folder}`"
                )
        check_version(folder, manifest, "tensorrt", str(import_tensorrt().__version__), _REBUILD)
        ranks = read_ranks(folder / TOKENIZER_NAME)
        tokenizer = Tokenizer(ranks, dimensions.n_vocab, dimensions.is_multilingual)
        with ExitStack() as on_error:
            gpu = Gpu()
            on_error.callback(gpu.close)
            check_gpu(folder, manifest, gpu.compute_capability, _REBUILD)
            sessions = []
            for part in ENGINE_PARTS:
                session = TensorRtSession(folder / f"{part}.plan", gpu)
                on_error.callback(session.close)
                sessions.append(session)
            _check_graphs(folder, dimensions, *sessions)
            engine = cls(manifest, tokenizer, gpu, *sessions)
            on_error.pop_all()
        return engine

    def encode(
        self, mel: npt.NDArray[np.float32], cancellation: Cancellation | None = None
    ) -> TensorRtEncodedAudio:
        if cancellation is not None:
            cancellation.check()  # a GPU's encoder is done before it could be interrupted
        expected = (self.dimensions.n_mels, N_FRAMES)
        if mel.shape != expected or mel.dtype != np.float32:
            raise ValueError(
                f"mel is {mel.dtype} {mel.shape}, the encoder takes float32 {expected}"
            )
        places = (
            self._spare_cross_kv.pop()
            if self._spare_cross_kv
            else self._allocate(self._encoder.outputs, "cross-attention keys and values")
        )
        encoded = TensorRtEncodedAudio(places, self._spare_cross_kv.append)
        with ExitStack() as on_error, self._gpu:
            on_error.callback(encoded.release)
            self._encoder.run_on_device({"mel": mel}, places)
            self._gpu.wait()  # here, and not in the middle of decoding, a fault is to show
            on_error.pop_all()
        return encoded

    def new_sequence(self, encoded: EncodedAudio) -> TensorRtSequence:
        """No tokens yet; the sequence before it must not go on, since they share the buffers."""
        assert isinstance(encoded, TensorRtEncodedAudio)
        return TensorRtSequence(self, encoded)

    def step(
        self, encoded: TensorRtEncodedAudio, tokens: Sequence[int], position: int
    ) -> npt.NDArray[np.float32]:
        """Run the decoder on tokens that start at `position`, and keep their keys and values.

        Returns logits, shape = (n, n_vocab).
        """
        num_tokens = len(tokens)
        assert position + num_tokens <= self.dimensions.n_text_ctx, "no room in the context"
        feeds: dict[str, npt.NDArray[np.int32] | DeviceArray] = {
            "tokens": np.asarray(tokens, np.int32),
            "positions": np.arange(position, position + num_tokens, dtype=np.int32),
            **self._self_kv,
            **encoded.cross_kv,
        }
        with self._gpu:
            outputs = self._decoder.run_on_device(feeds)
            for name, rows in self._self_kv.items():
                new = outputs[f"new_{name}"]
                start = rows.address + position * (rows.nbytes // rows.shape[0])
                self._gpu.copy(start, new.address, new.nbytes)
            return self._gpu.download(outputs["logits"])

    def close(self) -> None:
        for part in (self._decoder, self._encoder):
            part.close()
        for buffer in self._buffers:
            buffer.free()
        self._gpu.close()

    def _allocate(self, specs: Mapping[str, TensorSpec], purpose: str) -> dict[str, DeviceArray]:
        """Memory for tensors, all of it or, with EngineError, none."""
        arrays = {}
        with ExitStack() as on_error, self._gpu:
            buffers = []
            for name, spec in specs.items():
                buffers.append(DeviceBuffer(self._gpu, purpose))
                on_error.callback(buffers[-1].free)
                arrays[name] = buffers[-1].array(spec.shape, spec.dtype)
            on_error.pop_all()
        self._buffers += buffers
        return arrays


def check_version(
    folder: Path, manifest: Manifest, library: str, running: str, rebuild: str
) -> None:
    """Raise EngineError unless the plans were built by the version of a library that runs here."""
    built = manifest.built_with.get(library, "an unknown version")
    if built.split(".")[:3] != running.split(".")[:3]:
        raise EngineError(
            f"{folder} was built by {library} {built} and here runs {running}, which cannot read "
            f"its plans: {rebuild}"
        )


def check_gpu(folder: Path, manifest: Manifest, running: str, rebuild: str) -> None:
    """Raise EngineError unless the plans were built for the architecture of this GPU."""
    built = manifest.built_with.get("sm", "an unknown one")
    if built != running:
        raise EngineError(
            f"{folder} was built for GPU architecture sm_{built} and this one is sm_{running}: "
            f"{rebuild}"
        )


def _check_graphs(
    folder: Path, dimensions: ModelDimensions, encoder: TensorRtSession, decoder: TensorRtSession
) -> None:
    """Raise EngineError unless the plans have the tensors that this program feeds."""
    layers = range(dimensions.n_text_layer)
    kinds = ("self_key", "self_value", "cross_key", "cross_value")
    expected = {"tokens", "positions", *(f"{kind}_{index}" for kind in kinds for index in layers)}
    cross = {name for name in expected if name.startswith("cross_")}
    news = {f"new_{name}" for name in expected if name.startswith("self_")}
    head_size = dimensions.n_text_state // dimensions.n_text_head
    rows = (dimensions.n_text_ctx, dimensions.n_text_head, head_size)
    good = (
        set(encoder.inputs) == {"mel"}
        and set(encoder.outputs) == cross
        and set(decoder.inputs) == expected
        and set(decoder.outputs) == {"logits", *news}
        and decoder.inputs["self_key_0"].shape == rows
        and decoder.outputs["logits"].dtype == np.float32
    )
    if not good:
        raise EngineError(
            f"the plans in {folder} are of graphs of another version of this program: make the "
            "graphs again with `duplex-asr build CHECKPOINT.pt --backend tensorrt`"
        )
