"""A voice's graph through onnxruntime: arrays in by name, arrays out; a run can be interrupted."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy.typing as npt

from duplex_asr.cancellation import Cancellation, Cancelled
from duplex_asr.errors import VoiceError

_MAX_DEFAULT_THREADS = 4
_PROVIDERS = {
    "cpu": ["CPUExecutionProvider"],
    "cuda": ["CUDAExecutionProvider", "CPUExecutionProvider"],
    "tensorrt": ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"],
}


class VoiceSession(Protocol):
    """What the packages piper and kokoro_onnx want of a session, as onnxruntime names it.

    cancellation: of the text that is spoken now.
    """

    cancellation: Cancellation

    def run(self, outputs: Sequence[str] | None, feeds: Mapping[str, Any]) -> list[Any]: ...
    def get_inputs(self) -> list[Any]: ...
    def get_outputs(self) -> list[Any]: ...
    def get_modelmeta(self) -> Any: ...
    def close(self) -> None: ...


class OnnxSession:
    """One graph of a voice; see VoiceSession."""

    def __init__(self, path: Path, provider: str = "cpu", threads: int = 0) -> None:
        """Load a .onnx file; raises VoiceError.

        provider: "cpu", "cuda" or "tensorrt"; threads: 0 is one per core, at most four.
        """
        import onnxruntime

        self._onnxruntime = onnxruntime
        self._path = path
        self._model_path = str(path)  # which kokoro_onnx reads
        self.cancellation = Cancellation()
        providers = _PROVIDERS[provider]
        _check_provider(provider, onnxruntime.get_available_providers())
        if not path.is_file():
            raise VoiceError(f"there is no voice {path}: set voice.path to a .onnx file")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or min(
            _MAX_DEFAULT_THREADS, len(os.sched_getaffinity(0))
        )
        options.inter_op_num_threads = 1
        # Waiting threads must sleep: a daemon that spins between two sentences is never idle.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        with self._faults("cannot load"):
            self._session: Any = onnxruntime.InferenceSession(
                str(path), options, providers=providers
            )
        # onnxruntime goes on without a provider whose libraries it does not find.
        _check_provider(provider, self._session.get_providers())

    def run(
        self, outputs: Sequence[str] | None, feeds: Mapping[str, npt.NDArray[Any]]
    ) -> list[Any]:
        """Run the graph; raises Cancelled between two operators, and VoiceError."""
        options = self._onnxruntime.RunOptions()
        with (
            self.cancellation.interrupting(lambda: setattr(options, "terminate", True)),
            self._faults("cannot run"),
        ):
            result: list[Any] = self._session.run(outputs, dict(feeds), options)
        self.cancellation.check()
        return result

    def get_inputs(self) -> list[Any]:
        return list(self._session.get_inputs())

    def get_outputs(self) -> list[Any]:
        return list(self._session.get_outputs())

    def get_modelmeta(self) -> Any:
        return self._session.get_modelmeta()

    def close(self) -> None:
        self._session = None

    @contextmanager
    def _faults(self, doing: str) -> Iterator[None]:
        from onnxruntime.capi import onnxruntime_pybind11_state as state

        names = ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NoModel")
        more = ("NoSuchFile", "NotImplemented", "RuntimeException")
        try:
            yield
        # onnxruntime's exceptions have no base class of their own.
        except tuple(getattr(state, name) for name in (*names, *more)) as error:
            if self.cancellation.is_set:
                raise Cancelled from error
            reason = str(error).strip().splitlines()[0]
            raise VoiceError(
                f"onnxruntime {self._onnxruntime.__version__} {doing} the voice {self._path} "
                f"({reason}): download or export it again"
            ) from error


def _check_provider(provider: str, available: Sequence[str]) -> None:
    wanted = _PROVIDERS[provider][0]
    if wanted not in available:
        raise VoiceError(
            f'voice.provider = "{provider}" needs {wanted}, and onnxruntime has '
            f"{', '.join(available)} here: install onnxruntime-gpu with its CUDA libraries, or set "
            '"cpu"'
        )


def check_inputs(session: VoiceSession, path: Path, expected: set[str], kind: str) -> None:
    """Raise VoiceError unless the graph takes what a voice of this kind takes."""
    found = {value.name for value in session.get_inputs()}
    if not expected <= found:
        raise VoiceError(
            f"{path} takes {', '.join(sorted(found))}, which is no {kind} voice: set voice.engine "
            "to its kind, or voice.path to another file"
        )
