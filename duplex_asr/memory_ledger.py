"""A configuration in, what it needs of the memory out, part by part; refuses what does not fit.

Estimates stand before loading, measured figures beside them afterwards: the growth of the process
while a part was loaded. Memory of a GPU that has its own is neither counted nor measured.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from duplex_asr.asr.manifest import TOKENIZER_NAME, Manifest
from duplex_asr.config import Config
from duplex_asr.errors import NotEnoughMemoryError
from duplex_asr.freed_memory import trim_freed_memory

T = TypeVar("T")
MB = 1 << 20
# Measured with the demo engine, Python 3.11 on x86-64: libraries and code that come after the
# start, and the two processes that record and play.
LIBRARIES_MB, SOUND_PROCESSES_MB = 60.0, 40.0
ESPEAK_MB, NEURAL_VOICE_MB = (
    6.0,
    60.0,
)  # the second beside the model: onnxruntime and its work space
ECHO_CANCELLER_MB = 25.0
CUDA_CONTEXT_MB = 200.0  # not measured on a board
BYTES_OF = {"fp32": 4.0, "int8": 1.3, "fp16": 2.0, "int4": 1.1}  # a weight, with its scales
PARTS_ON_DEMAND = ("speech engine", "voice")
TURN_PATIENCE_S = 10.0  # for the other part to be unloaded: an utterance, or what is being played
MAX_AUDIOS = 2  # of an onnx engine: one that is decoded, one that is encoded
# Values that are there at once while the encoder runs, for a position and in widths of the model.
CPU_ENCODER_ROWS = 14  # mostly the four widths between both halves of a layer, twice
GPU_ENCODER_ROWS = 20  # in half precision


@dataclass(frozen=True)
class MemoryNeed:
    """One part: what it takes, and how it can be made to take less. part: "WHOLE: DETAIL"."""

    part: str
    mb: float
    how_to_lower: str


def memory_needs(config: Config, manifest: Manifest) -> list[MemoryNeed]:
    """What this configuration needs with this engine; estimates, see docs/benchmarks.md."""
    needs = [
        MemoryNeed("process", resident_mb() + LIBRARIES_MB, ""),
        MemoryNeed("sound processes", SOUND_PROCESSES_MB, ""),
        *_engine_needs(config, manifest),
        _voice_need(config),
    ]
    if config.audio.source.startswith("microphone") and config.echo.mode == "aec3":
        needs.append(MemoryNeed("echo canceller", ECHO_CANCELLER_MB, 'echo.mode = "external"'))
    return needs


def _engine_needs(config: Config, manifest: Manifest) -> Iterator[MemoryNeed]:
    size, is_onnx = manifest.dimensions, manifest.backend == "onnx"
    files = sum(each["bytes"] for name, each in manifest.files.items() if name != TOKENIZER_NAME)
    weights_mb = files / MB
    if is_onnx:  # half precision in the file is widened when it is loaded
        width = size.n_text_state
        num_weights = (
            12 * size.n_audio_layer * size.n_audio_state**2
            + 16 * size.n_text_layer * width**2
            + size.n_vocab * width
        )
        weights_mb = max(weights_mb, num_weights * BYTES_OF.get(manifest.precision, 4.0) / MB)
    yield MemoryNeed(
        "speech engine: weights", weights_mb, "a smaller model or precision: `duplex-asr build`"
    )
    bytes_a_value = 4 if is_onnx else 2
    a_position = 2 * size.n_text_layer * size.n_text_state * bytes_a_value / MB
    num_audios, num_tokens = MAX_AUDIOS, MAX_AUDIOS * size.n_text_ctx
    lower = ""
    if manifest.backend == "cuda":
        num_audios, num_tokens = config.cuda.max_audios, config.cuda.pool_tokens
        lower = "cuda.max_audios, cuda.pool_tokens"
    yield MemoryNeed(
        "speech engine: KV", a_position * (num_audios * size.n_audio_ctx + num_tokens), lower
    )
    rows = CPU_ENCODER_ROWS if is_onnx else GPU_ENCODER_ROWS
    scratch_mb = rows * size.n_audio_ctx * size.n_audio_state * bytes_a_value / MB
    if not is_onnx:
        scratch_mb += CUDA_CONTEXT_MB
    yield MemoryNeed("speech engine: work space", scratch_mb, "a smaller model")


def _voice_need(config: Config) -> MemoryNeed:
    voice = config.voice
    if voice.engine == "espeak":
        return MemoryNeed("voice", ESPEAK_MB, "")
    paths = [Path(each).expanduser() for each in (voice.path, voice.voices_path) if each]
    files = [file for path in paths for file in (path.rglob("*") if path.is_dir() else [path])]
    size_mb = sum(each.stat().st_size for each in files if each.is_file()) / MB
    return MemoryNeed("voice", size_mb + NEURAL_VOICE_MB, 'voice.engine = "espeak"')


def parts_in_turn(config: Config) -> tuple[str, ...]:
    """Parts that are unloaded as soon as their work is done, so that room for one is enough."""
    if config.engine.unload_after_s == config.voice.unload_after_s == 0:
        return PARTS_ON_DEMAND
    return ()


class MemoryLedger:
    """What is needed, what may be used, and what the parts took when they were loaded.

    budget_mb: of the whole process; 0: what the machine has free. in_turn: parts that wait for each
    other's unloading where there is no room for all of them.
    """

    def __init__(
        self,
        needs: list[MemoryNeed],
        budget_mb: int,
        resident: Callable[[], float] | None = None,
        available: Callable[[], float | None] | None = None,
        in_turn: Sequence[str] = (),
    ) -> None:
        self._needs = needs
        self._in_turn = in_turn
        self._budget_mb = budget_mb
        self._resident = resident or resident_mb
        self._available = available or available_mb
        self._changed = threading.Condition()
        self._is_loading = False
        self._not_yet_loaded: set[str] = set()
        self._measured_mb: dict[str, float] = {"process": round(self._resident(), 1)}
        self._freed_mb: dict[str, float] = {}
        self._before_unloading_mb = 0.0  # the most that was resident then

    @property
    def needs_mb(self) -> float:
        return sum(each.mb for each in self._needs)

    @property
    def most_needed_mb(self) -> float:
        """What is needed at once, which is less where parts are loaded in turn."""
        return self._most_mb(self._in_turn)

    def check(self) -> None:
        """Raise NotEnoughMemoryError, a table, if it does not fit."""
        if self._budget_mb:
            limit_mb, source = float(self._budget_mb), "service.memory_budget_mb"
        else:
            available = self._available()
            if available is None:
                return
            limit_mb, source = available + self._resident(), "free on this machine"
        needs_mb = self.most_needed_mb
        if needs_mb <= limit_mb:
            return
        rows = [
            f"  {each.part:28}{each.mb:7.0f} MB"
            + (f"   lower it with {each.how_to_lower}" if each.how_to_lower else "")
            for each in self._needs
        ]
        in_turn_mb = self._most_mb(PARTS_ON_DEMAND)
        if in_turn_mb <= limit_mb:
            rows.append(
                f"  speech engine and voice in turn{in_turn_mb:6.0f} MB   would fit, each text and "
                "utterance later: engine.unload_after_s = 0 and voice.unload_after_s = 0"
            )
        raise NotEnoughMemoryError(
            f"not enough memory: {needs_mb:.0f} MB are needed and {limit_mb:.0f} MB may be "
            f"used ({source}); lower what is needed or allow more\n" + "\n".join(rows)
        )

    def _most_mb(self, in_turn: Sequence[str]) -> float:
        """What is needed at once if only one of these parts is loaded at a time."""
        waiting = sorted(self.need_mb(part) for part in in_turn)[:-1]
        return self.needs_mb - sum(waiting)

    def need_mb(self, part: str) -> float:
        """Of all that a part is made of."""
        return sum(each.mb for each in self._needs if each.part.split(":")[0] == part)

    @contextmanager
    def measuring(self, part: str) -> Iterator[None]:
        """Note by how much the process grows while a part is loaded; one part after the other,
        which also keeps the peak low."""
        with self._changed:
            self._changed.wait_for(lambda: not self._is_loading)
            self._is_loading = True
        before = self._resident()
        try:
            yield
            self._measured_mb[part] = round(self._resident() - before, 1)
        finally:
            with self._changed:
                self._is_loading = False
                self._changed.notify_all()

    def measured(self, part: str, load: Callable[[], T]) -> Callable[[], T]:
        """The same function, measured when it is called.

        What needs most is loaded first, since what loading takes besides finds most room then: the
        first call waits for those of all parts that need more. Later ones raise
        NotEnoughMemoryError if others have taken the room meanwhile.
        """
        self._not_yet_loaded.add(part)

        def load_measured() -> T:
            with self._changed:
                self._changed.wait_for(lambda: not self._comes_later(part))
            try:
                with self.measuring(part):
                    self._check_room(part)
                    return load()
            finally:
                with self._changed:
                    self._not_yet_loaded.discard(part)
                    self._changed.notify_all()

        return load_measured

    def _comes_later(self, part: str) -> bool:
        """Whether a part that needs more than this one is still to be loaded for the first time."""
        others = self._not_yet_loaded - {part}
        return part in self._not_yet_loaded and any(
            self.need_mb(each) > self.need_mb(part) for each in others
        )

    def _check_room(self, part: str) -> None:
        """Raise NotEnoughMemoryError if there is no room any more for what was loaded before, or
        for what is loaded in turn; that waits for the others."""
        if part not in self._measured_mb and part not in self._in_turn:
            return
        # What it gave back is more than loading it took: it has its work space since it was used.
        measured = (self._measured_mb.get(part), self._freed_mb.get(part))
        need_mb = max((each for each in measured if each is not None), default=self.need_mb(part))
        patience_s = TURN_PATIENCE_S if part in self._in_turn else 0
        with self._changed:
            if self._changed.wait_for(lambda: need_mb <= self._free_mb(), patience_s):
                return
        raise NotEnoughMemoryError(
            f"the {part} cannot be loaded: it takes {need_mb:.0f} MB and {self._free_mb():.0f} MB "
            "are free; end other programs, or lower what the table of `check-config` names"
        )

    def _free_mb(self) -> float:
        if self._budget_mb:
            # The budget is held against estimates, which the process may have exceeded: what was
            # there before an unloading may be there again, or a part might stay away for good.
            return max(self._budget_mb, self._before_unloading_mb) - self._resident()
        available = self._available()
        return math.inf if available is None else available

    @contextmanager
    def unloading(self, part: str) -> Iterator[None]:
        """Note by how much the process shrinks while a part is unloaded."""
        before = self._resident()
        yield
        trim_freed_memory()
        with self._changed:
            self._before_unloading_mb = max(before, self._before_unloading_mb)
            self._freed_mb[part] = round(before - self._resident(), 1)
            self._changed.notify_all()

    def describe(self) -> dict[str, Any]:
        """The section `memory` of the status."""
        available = self._available()
        return {
            "budget_mb": self._budget_mb,
            "available_mb": None if available is None else round(available),
            "resident_mb": round(self._resident(), 1),
            "needs_mb": {each.part: round(each.mb, 1) for each in self._needs},
            "measured_mb": dict(self._measured_mb),
            "freed_mb": dict(self._freed_mb),
        }


def resident_mb() -> float:
    """What this process has in memory now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / MB


def available_mb() -> float | None:
    """What the machine can give without swapping; None if it does not say."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) / 1024
    return None
