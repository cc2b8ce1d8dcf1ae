"""A small case with its right answer, kept in an engine folder and computed at each load.

A library that was miscompiled, or a weight in the wrong place, gives no error: it gives fluent
nonsense. The right answer comes from the fp32 ONNX graphs at build time, with the weights as they
are stored, quantised or not, so that only the engine's own arithmetic is left to differ.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from duplex_asr.asr.mel import N_FRAMES
from duplex_asr.asr.tensor_file import map_tensors, write_tensors
from duplex_asr.errors import EngineError

SELF_TEST_NAME = "self_test.safetensors"
# Half precision stays well below 1e-2 of the reference; what is broken is wrong by all of it.
TOLERANCE = 0.03
_FEATURE_STEP = 100  # every so many positions of the encoder's output ...
_LOGIT_STEP = 13  # ... and every so many logits of a row are kept: 0.1 MB instead of 4
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class SelfTest:
    """tokens: what the decoder is given, n of them.

    features: some rows of the encoder's output; logits: some columns after each token.
    """

    tokens: tuple[int, ...]
    features: Floats
    logits: Floats

    @classmethod
    def of_answer(cls, tokens: tuple[int, ...], features: Floats, logits: Floats) -> SelfTest:
        """From the whole answer of a reference: (1500, width) and (n, n_vocab)."""
        return cls(tokens, _some_features(features), _some_logits(logits))

    @classmethod
    def read(cls, path: Path) -> SelfTest:
        """Raises EngineError if the file is not one that `write` wrote."""
        tensors = map_tensors(path)
        if tensors.keys() != {"tokens", "features", "logits"}:
            raise EngineError(
                f"{path} is no self-test: build the engine again with `duplex-asr build`"
            )
        tokens = tuple(int(each) for each in tensors["tokens"])
        return cls(tokens, tensors["features"], tensors["logits"])

    def write(self, path: Path) -> None:
        tokens = np.array(self.tokens, np.int32)
        write_tensors(path, {"tokens": tokens, "features": self.features, "logits": self.logits})

    def problem(self, features: Floats, logits: Floats) -> str:
        """What is wrong with an engine's whole answer, in words; "" if nothing is."""
        for name, found, right in (
            ("encoder", _some_features(features), self.features),
            ("decoder", _some_logits(logits), self.logits),
        ):
            error = relative_error(found, right)
            if not error <= TOLERANCE:  # NaN is no small error
                return f"its {name} is off by {error:.1%} in a case with a known answer"
        return ""


def self_test_mel(n_mels: int) -> Floats:
    """The input of the case, (n_mels, 3000), from -1 to 1.5: the same bits on every machine.

    Noise by integer hashing, since random generators may change with numpy.
    """
    numbers = np.arange(n_mels * N_FRAMES, dtype=np.uint32)
    numbers *= np.uint32(2_654_435_761)
    numbers ^= numbers >> np.uint32(15)
    numbers *= np.uint32(2_246_822_519)
    numbers ^= numbers >> np.uint32(13)
    mel = (numbers >> np.uint32(8)).astype(np.float32) * np.float32(2.5 / 2**24) - np.float32(1)
    return np.asarray(mel.reshape(n_mels, N_FRAMES), np.float32)


def relative_error(found: Floats, right: Floats) -> float:
    """Norm of the difference over the norm of the right values."""
    return float(np.linalg.norm(found - right) / np.linalg.norm(right))


def _some_features(features: Floats) -> Floats:
    return np.ascontiguousarray(features[::_FEATURE_STEP])


def _some_logits(logits: Floats) -> Floats:
    return np.ascontiguousarray(logits[:, ::_LOGIT_STEP])
