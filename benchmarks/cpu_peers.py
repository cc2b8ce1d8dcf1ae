"""Programs that run Whisper on a CPU: what each is given, and the process that it runs in.

`prepare` writes a peer's model file from one set of weights, before and outside the process that
is measured; it raises Absent with the reason where that cannot be done.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ctranslate2_folder import save_ctranslate2
from ggml_file import write_ggml
from peer_weights import (
    Absent,
    Job,
    need,
    transformers_generation_config,
    transformers_model,
)

from duplex_asr.asr.export.build import build_onnx_engine

ANSWER_TIMEOUT_S = 600


@dataclass(frozen=True)
class Peer:
    """kind: which opener of peer_process.py runs it. modules: what must be installed.

    prepare(job, checkpoint, path): writes the peer's model to `path`.
    """

    name: str
    kind: str
    modules: tuple[str, ...]
    prepare: Callable[[Job, Path, Path], None]

    @property
    def is_ours(self) -> bool:
        return self.kind == "duplex-asr"


def our_peer(precision: str) -> Peer:
    def prepare(job: Job, checkpoint: Path, path: Path) -> None:
        build_onnx_engine(checkpoint, path, precision)

    return Peer(f"duplex-asr {precision}", "duplex-asr", ("onnx", "onnxruntime"), prepare)


def _ctranslate2_peer(compute_type: str) -> Peer:
    def prepare(job: Job, checkpoint: Path, path: Path) -> None:
        path.mkdir()
        save_ctranslate2(job, path, None if compute_type == "float32" else compute_type)

    return Peer(f"faster-whisper {compute_type}", "faster-whisper", ("ctranslate2",), prepare)


def _write_ggml(job: Job, checkpoint: Path, path: Path) -> None:
    write_ggml(path, job)


def _write_unfused(job: Job, checkpoint: Path, path: Path) -> None:
    from unfused_graphs import write_unfused_graphs  # needs onnx

    path.mkdir()
    write_unfused_graphs(job, path)


def _write_checkpoint(job: Job, checkpoint: Path, path: Path) -> None:
    """Its own format, written by torch: our writer's files are not all that torch looks for."""
    import torch

    state = {name: torch.from_numpy(values).half() for name, values in job.tensors.items()}
    torch.save({"dims": vars(job.dimensions), "model_state_dict": state}, path)


def _save_transformers(job: Job, checkpoint: Path, path: Path) -> None:
    model = transformers_model(job)
    model.generation_config = transformers_generation_config(job)
    model.save_pretrained(path)


FASTER_WHISPER = _ctranslate2_peer("int8")
OTHERS = (
    FASTER_WHISPER,
    _ctranslate2_peer("float32"),
    Peer("whisper.cpp q8_0", "whisper.cpp", ("_pywhispercpp",), _write_ggml),
    Peer("onnxruntime int8, unfused", "onnxruntime", ("onnx", "onnxruntime"), _write_unfused),
    Peer("openai-whisper fp32", "openai-whisper", ("whisper", "torch"), _write_checkpoint),
    Peer("transformers fp32", "transformers", ("transformers", "torch"), _save_transformers),
)


def all_peers(precisions: list[str]) -> list[Peer]:
    return [*(our_peer(each) for each in precisions), *OTHERS]


def prepared(peer: Peer, job: Job, checkpoint: Path, folder: Path) -> Path:
    """The peer's model in `folder`, written if it is not there; ours always. Raises Absent."""
    need(*peer.modules)
    path = folder / peer.name.replace(" ", "-")
    if path.exists() and not peer.is_ours:
        return path
    unfinished = path.with_name(f"unfinished-{path.name}")
    for each in (path, unfinished):
        shutil.rmtree(each, ignore_errors=True)
        each.unlink(missing_ok=True)
    try:
        peer.prepare(job, checkpoint, unfinished)
    except ImportError as error:  # installed, but something that it needs is not
        raise Absent(str(error)) from error
    unfinished.rename(path)
    return path


class PeerProcess:
    """A peer that is loaded and waits, stopped by SIGSTOP, for its turn.

    Stopped, because threads that have worked may spin for a while, and would take the next peer's
    time.
    """

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self._process = process
        self._log = log
        self.loaded = self._answer()
        process.send_signal(signal.SIGSTOP)

    def turn(self, num_runs: int) -> list[dict[str, Any]]:
        """Utterances one after the other; raises Absent with the peer's last words if it fails.

        One more goes before them and does not count: caches, and on a virtual machine the cores
        themselves, are still with the peer before.
        """
        self._process.send_signal(signal.SIGCONT)
        answers = [self._run() for _ in range(1 + num_runs)]
        self._process.send_signal(signal.SIGSTOP)
        return answers[1:]

    def _run(self) -> dict[str, Any]:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # then there is no answer either
            self._process.stdin.write("run\n")
            self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        output = self._process.stdout
        assert output is not None
        if not select.select([output], [], [], ANSWER_TIMEOUT_S)[0]:
            raise Absent(f"no answer within {ANSWER_TIMEOUT_S} s")
        line = output.readline()
        if not line:
            self._process.wait(ANSWER_TIMEOUT_S)
            last_words = self._log.read_text(errors="replace").strip().splitlines()[-1:]
            raise Absent(" ".join([f"ended with code {self._process.returncode}:", *last_words]))
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextlib.contextmanager
def running(peer: Peer, model: Path, work: Path, threads: int) -> Iterator[PeerProcess]:
    """A process that has loaded the peer's model. Raises Absent."""
    program = Path(__file__).with_name("peer_process.py")
    command = [sys.executable, str(program), peer.kind, str(model), str(work), str(threads)]
    log = model.with_name(f"{model.name}.log")
    with _started(command, log, threads) as process:
        yield PeerProcess(process, log)


@contextlib.contextmanager
def _started(command: list[str], log: Path, threads: int) -> Iterator[subprocess.Popen[str]]:
    errors: IO[str]
    with log.open("w") as errors:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()  # a stopped process cannot end by itself
        process.communicate()
