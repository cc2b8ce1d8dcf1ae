"""A voice cut in two by build_scripts/build_voice.sh: encoder on the processor, vocoder as plans.

A plan takes one number of frames. Shorter speech is filled up with zeros; longer speech goes
through the largest plan in windows that overlap by more than the vocoder looks to either side.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from duplex_asr.cancellation import Cancellation
from duplex_asr.errors import EngineError, VoiceError
from duplex_asr.gpu import Gpu
from duplex_asr.tensorrt_session import TensorRtSession
from duplex_asr.tts.voices.onnx_session import OnnxSession

_OVERLAP_FRAMES = 32  # HiFi-GAN and iSTFTNet look less far
_BUILD = "build it again with build_scripts/build_voice.sh"


@dataclass(frozen=True)
class VoiceManifest:
    """What build_voice.sh says of a voice.

    vocoder_inputs: name -> sizes; "frames" or "2 frames" is one that grows.
    samples_per_frame, samples_more: what each frame gives, and what comes once.
    """

    name: str
    kind: str
    buckets: tuple[int, ...]
    vocoder_inputs: dict[str, list[int | str]]
    samples_per_frame: int
    samples_more: int


def read_voice_manifest(folder: Path) -> VoiceManifest:
    """Read manifest.json of a voice folder; raises VoiceError."""
    path = folder / "manifest.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["backend"] != "voice" or content["kind"] not in ("piper", "kokoro"):
            raise ValueError(f"it describes {content['backend']} {content.get('kind', '')}")
        if content["pattern"] != "split":
            raise ValueError(
                f"pattern {content['pattern']!r} is not supported, VOICE_PATTERN=split is"
            )
        return VoiceManifest(
            content["name"], content["kind"], tuple(sorted(content["buckets"])),
            content["vocoder_inputs"], int(content["samples_per_frame"]),
            int(content["samples_more"]),
        )  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise VoiceError(f"{path} describes no voice in plans ({error}): {_BUILD}") from error


class SplitSession:
    """Runs encoder.onnx, then vocoder-N.plan; see VoiceSession."""

    def __init__(self, folder: Path, manifest: VoiceManifest, threads: int = 0) -> None:
        """Load both parts; raises VoiceError."""
        self._manifest = manifest
        self._model_path = str(folder / "encoder.onnx")  # which kokoro_onnx reads
        self._encoder = OnnxSession(folder / "encoder.onnx", "cpu", threads)
        self.cancellation = Cancellation()
        try:
            self._gpu = Gpu()
            self._vocoders = {
                frames: TensorRtSession(folder / f"vocoder-{frames}.plan", self._gpu)
                for frames in manifest.buckets
            }
        except EngineError as error:
            raise VoiceError(str(error)) from error
        for vocoder in self._vocoders.values():
            if vocoder.inputs.keys() != manifest.vocoder_inputs.keys():
                raise VoiceError(f"the plans in {folder} are not of this voice: {_BUILD}")

    def run(
        self, outputs: Sequence[str] | None, feeds: Mapping[str, npt.NDArray[Any]]
    ) -> list[Any]:
        """The waveform, and the durations if the encoder gives them; raises Cancelled."""
        self._encoder.cancellation = self.cancellation
        names = [value.name for value in self._encoder.get_outputs()]
        tensors: dict[str, Any] = dict(feeds)
        tensors |= zip(names, self._encoder.run(None, feeds), strict=True)
        inputs = {name: tensors[name] for name in self._manifest.vocoder_inputs}
        sound = self._vocode(inputs)
        return [sound, tensors["duration"]] if "duration" in names else [sound]

    def get_inputs(self) -> list[Any]:
        return self._encoder.get_inputs()

    def get_outputs(self) -> list[Any]:
        return [value for value in self._encoder.get_outputs() if value.name == "duration"]

    def get_modelmeta(self) -> Any:
        return self._encoder.get_modelmeta()

    def close(self) -> None:
        self._encoder.close()
        for vocoder in self._vocoders.values():
            vocoder.close()
        self._gpu.close()

    def _vocode(self, inputs: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[np.float32]:
        """Frames in, samples out, in windows of a plan's size."""
        manifest = self._manifest
        num_frames = self._num_frames(inputs)
        largest = manifest.buckets[-1]
        if num_frames <= largest:
            frames = next(each for each in manifest.buckets if each >= num_frames)
            samples = self._window(inputs, 0, num_frames, frames)
            return samples[: num_frames * manifest.samples_per_frame + manifest.samples_more]
        overlap = min(_OVERLAP_FRAMES, largest // 4)
        sounds, start = [], 0
        while True:
            stop = min(start + largest, num_frames)
            samples = self._window(inputs, start, stop, largest)
            first = overlap if start else 0
            last = stop - start if stop == num_frames else largest - overlap
            more = manifest.samples_more if stop == num_frames else 0
            rate = manifest.samples_per_frame
            sounds.append(samples[first * rate : last * rate + more])
            if stop == num_frames:
                return np.concatenate(sounds)
            start += largest - 2 * overlap

    def _window(
        self, inputs: Mapping[str, npt.NDArray[Any]], start: int, stop: int, frames: int
    ) -> npt.NDArray[np.float32]:
        """Samples of some frames, which are filled up to the plan's number."""
        self.cancellation.check()
        vocoder = self._vocoders[frames]
        feeds = {}
        for name, sizes in self._manifest.vocoder_inputs.items():
            value = inputs[name]
            for axis, size in enumerate(sizes):
                if multiple := _multiple(size):
                    taken = range(start * multiple, stop * multiple)
                    value = np.take(value, taken, axis)
                    missing = [(0, 0)] * value.ndim
                    missing[axis] = (0, (frames - (stop - start)) * multiple)
                    value = np.pad(value, missing)
            feeds[name] = np.ascontiguousarray(value, vocoder.inputs[name].dtype)
        try:
            sound = vocoder.run(None, feeds)[0]
        except EngineError as error:
            raise VoiceError(str(error)) from error
        return np.asarray(sound, np.float32).reshape(-1)

    def _num_frames(self, inputs: Mapping[str, npt.NDArray[Any]]) -> int:
        for name, sizes in self._manifest.vocoder_inputs.items():
            for axis, size in enumerate(sizes):
                if multiple := _multiple(size):
                    return int(inputs[name].shape[axis]) // multiple
        raise VoiceError(f"no input of the vocoder grows with the text: {_BUILD}")


def _multiple(size: int | str) -> int:
    """How often the frames go into a size of the manifest; 0: it does not grow."""
    if not isinstance(size, str):
        return 0
    return int(size.split()[0]) if " " in size else 1
