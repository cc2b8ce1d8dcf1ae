"""Our CPU engine and other programs on the same cores, in one run and with the same weights.

    python benchmarks/peers.py --models base.en,small.en --json FILE [--plot FILE.svg]

Weights are random in the real dimensions, from a seed (or those of --checkpoint); nothing is
downloaded. Every program has a process of its own, gets the same spectrogram of 30 s and decodes
the same number of tokens (the end token is suppressed). In each round every program has its turn:
one utterance that does not count and three that do, the others being stopped. Times are medians,
from the spectrogram in memory to the tokens in Python. Memory is the most that was ever resident
in that process (VmHWM), its interpreter and libraries included; models are converted before, in
another process.

`time_ratio_to_faster_whisper_int8` and `memory_ratio_to_faster_whisper_int8` are ours in int8 over
theirs; below 1 is better. `fastest_run_ratio_...` compares the fastest run of each: other work on
the machine costs some programs more than others. Peers that are missing are named with the reason;
`pip install -r benchmarks/peers.txt` brings them. Exit code 1: faster-whisper was not measured.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import os
import platform
import shlex
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from cpu_peers import FASTER_WHISPER, Peer, PeerProcess, all_peers, our_peer, prepared, running
from peer_weights import Absent, Job
from peers_plot import draw
from random_models import DIMENSIONS, write_random_checkpoint

from duplex_asr.asr.checkpoint import read_checkpoint
from duplex_asr.asr.export.build import PRECISIONS
from duplex_asr.asr.manifest import sha256_of_source
from duplex_asr.asr.mel import N_FRAMES
from duplex_asr.asr.tokenizer import Tokenizer, bundled_ranks, read_ranks
from duplex_asr.errors import DuplexAsrError

NUM_TOKENS = 25
ROUNDS = 4
RUNS_A_TURN = 3
BUSY_LOAD = 1.0  # average of the minute before the run, in which something may just have ended
OURS = our_peer("int8").name
THEIRS = FASTER_WHISPER.name
# The first of these that ran says which tokens are right.
REFERENCES = ("openai-whisper fp32", "transformers fp32", "duplex-asr fp32")
PARTS = ("encoder_ms", "decoder_ms")
PACKAGES = ("numpy", "onnxruntime", "ctranslate2", "faster-whisper", "pywhispercpp",
            "openai-whisper", "transformers", "torch")  # fmt: skip


@dataclass
class Measured:
    """The answers of one peer's process."""

    peer: Peer
    loaded: dict[str, Any]
    runs: list[dict[str, Any]] = field(default_factory=list)


def progress(text: str) -> None:
    print(f"  {text} ...", file=sys.stderr, flush=True)


def make_job(checkpoint_path: Path, name: str, num_tokens: int) -> Job:
    checkpoint = read_checkpoint(checkpoint_path)
    dims = checkpoint.dimensions
    ranks = read_ranks(bundled_ranks(dims.is_multilingual))
    tokenizer = Tokenizer(ranks, dims.n_vocab, dims.is_multilingual)
    tensors = {each: checkpoint.weight(each) for each in checkpoint.tensors}
    # Noise: what is heard does not change how long it takes.
    mel = np.random.default_rng(7).uniform(-1, 1.5, (dims.n_mels, N_FRAMES)).astype(np.float32)
    return Job(name, tensors, dims, mel, tokenizer, num_tokens, "cpu")


def write_work(job: Job, folder: Path) -> Path:
    """What the processes of the peers read."""
    np.save(folder / "mel.npy", job.mel)
    work = {
        "mel_path": str(folder / "mel.npy"),
        "prompt": list(job.prompt),
        "suppressed": sorted(set(job.suppressed)),
        "blank": list(job.tokenizer.blank_tokens),
        "num_tokens": job.num_tokens,
    }
    path = folder / "work.json"
    path.write_text(json.dumps(work))
    return path


def measure(
    peers: Sequence[Peer], job: Job, checkpoint: Path, folder: Path, threads: int, rounds: int
) -> tuple[list[Measured], dict[str, str]]:
    """The answers of those that ran, and why the others did not."""
    absent: dict[str, str] = {}
    models: dict[str, Path] = {}
    for peer in peers:
        progress(f"{job.name}: preparing {peer.name}")
        try:
            models[peer.name] = prepared(peer, job, checkpoint, folder)
        except Absent as error:
            absent[peer.name] = str(error)
    work = write_work(job, folder)
    job.tensors.clear()
    found: dict[str, Measured] = {}
    with contextlib.ExitStack() as stack:
        processes: dict[str, PeerProcess] = {}
        for peer in peers:
            if peer.name not in models:
                continue
            progress(f"{job.name}: loading {peer.name}")
            try:
                process = stack.enter_context(running(peer, models[peer.name], work, threads))
            except Absent as error:
                absent[peer.name] = str(error)
                continue
            processes[peer.name] = process
            found[peer.name] = Measured(peer, process.loaded)
        for number in range(rounds):
            progress(f"{job.name}: round {number + 1} of {rounds}")
            # Back and forth, so that no peer always follows the same one.
            for name in list(processes)[:: 1 if number % 2 == 0 else -1]:
                try:
                    found[name].runs += processes[name].turn(RUNS_A_TURN)
                except Absent as error:
                    absent[name] = str(error)
                    del processes[name], found[name]
    return list(found.values()), absent


def spread(values: Sequence[float]) -> dict[str, float]:
    fastest, p10, median, p90 = np.percentile(values, [0, 10, 50, 90])
    return {
        "median": round(median, 1),
        "p10": round(p10, 1),
        "p90": round(p90, 1),
        "fastest": round(fastest, 1),
    }


def first_difference(tokens: Sequence[int], reference: Sequence[int]) -> int:
    """How many tokens are those of the reference, from the beginning."""
    pairs = zip(tokens, reference, strict=True)
    return next((place for place, (one, other) in enumerate(pairs) if one != other), len(tokens))


def row(measured: Measured, num_tokens: int, reference: Sequence[int] | None) -> dict[str, Any]:
    """The figures of one peer."""
    runs = measured.runs
    tokens = runs[-1]["tokens"]
    counts = {len(each["tokens"]) for each in runs}
    assert counts == {num_tokens}, f"{measured.peer.name} decoded {counts} tokens"
    result = {
        "load_ms": round(measured.loaded["load_ms"], 1),
        "loaded_mb": measured.loaded["resident_mb"],
        "loaded_peak_mb": measured.loaded["peak_mb"],
        **{part: spread([each[part] for each in runs]) for part in PARTS},
        "total_ms": spread([sum(each[part] for part in PARTS) for each in runs]),
        "peak_mb": max(each["peak_mb"] for each in runs),
        "runs_ms": [[round(each[part], 1) for part in PARTS] for each in runs],
        "tokens": tokens,
    }
    if reference is not None:
        same = [one == other for one, other in zip(tokens, reference, strict=True)]
        result["same_tokens"] = round(sum(same) / num_tokens, 3)
        result["same_tokens_at_the_start"] = first_difference(tokens, reference)
    return result


def ratios(rows: dict[str, dict[str, Any]]) -> dict[str, float | None]:
    """Ours in int8 over faster-whisper in int8; None where one of them was not measured."""
    if OURS not in rows or THEIRS not in rows:
        return dict.fromkeys(RATIO_NAMES)
    ours, theirs = rows[OURS], rows[THEIRS]
    pairs = (
        (ours["total_ms"]["median"], theirs["total_ms"]["median"]),
        (ours["total_ms"]["fastest"], theirs["total_ms"]["fastest"]),
        (ours["peak_mb"], theirs["peak_mb"]),
    )
    found = (round(one / other, 3) for one, other in pairs)
    return dict(zip(RATIO_NAMES, found, strict=True))


RATIO_NAMES = (
    "time_ratio_to_faster_whisper_int8",
    "fastest_run_ratio_to_faster_whisper_int8",
    "memory_ratio_to_faster_whisper_int8",
)


def worst_ratios(models: dict[str, dict[str, Any]]) -> dict[str, float | None]:
    """The largest of each ratio; None where one model has none."""
    found = {name: [model[name] for model in models.values()] for name in RATIO_NAMES}
    return {name: None if None in values else max(values) for name, values in found.items()}


def compare(name: str, checkpoint: Path, folder: Path, options: argparse.Namespace) -> Any:
    """The table of one model."""
    folder.mkdir(parents=True, exist_ok=True)
    job = make_job(checkpoint, name, options.tokens)
    peers = wanted_peers(options)
    threads = len(options.cores)
    measured, absent = measure(peers, job, checkpoint, folder, threads, options.rounds)
    by_name = {each.peer.name: each for each in measured}
    reference = next((each for each in REFERENCES if each in by_name), None)
    right = by_name[reference].runs[-1]["tokens"] if reference else None
    rows = {each.peer.name: row(each, options.tokens, right) for each in measured}
    return {**ratios(rows), "token_reference": reference, "peers": rows, "absent": absent}


def wanted_peers(options: argparse.Namespace) -> list[Peer]:
    peers = all_peers(options.precision)
    if options.peers:
        peers = [each for each in peers if any(each.name.startswith(p) for p in options.peers)]
    return peers


def print_table(models: dict[str, dict[str, Any]], machine: dict[str, Any]) -> None:
    for name, model in models.items():
        theirs = model["peers"].get(THEIRS)
        print(f"\n| {name} | encoder ms | decoder ms | total ms (p10-p90) | of {THEIRS} | "
              "peak MB | of theirs | tokens as reference |")  # fmt: skip
        print("|---" * 8 + "|")
        for peer, found in model["peers"].items():
            total = found["total_ms"]
            time_ratio = memory_ratio = "-"
            if theirs:
                time_ratio = f"{total['median'] / theirs['total_ms']['median']:.2f}"
                memory_ratio = f"{found['peak_mb'] / theirs['peak_mb']:.2f}"
            same = f"{100 * found['same_tokens']:.0f} %" if "same_tokens" in found else "-"
            print(
                f"| {peer} | {found['encoder_ms']['median']:.0f} | "
                f"{found['decoder_ms']['median']:.0f} | {total['median']:.0f} "
                f"({total['p10']:.0f}-{total['p90']:.0f}) | {time_ratio} | "
                f"{found['peak_mb']:.0f} | {memory_ratio} | {same} |"
            )
        print()
        for peer, reason in model["absent"].items():
            print(f"{name}: {peer} is absent: {reason}")
    versions = ", ".join(f"{package} {version}" for package, version in machine["versions"].items())
    print(f"{machine['cpu']}, cores {machine['cores']}, {machine['system']}; {versions}\n")
    if machine["load"] > BUSY_LOAD:
        print(
            f"The machine was busy (load {machine['load']:.1f}): other work distorts all ratios\n"
        )


def describe_machine(cores: Sequence[int]) -> dict[str, Any]:
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    cpu = platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((each.split(": ")[1] for each in lines if each.startswith("model name")), cpu)
    return {"cpu": cpu, "cores": list(cores), "system": platform.platform(),
            "load": os.getloadavg()[0], "versions": versions}  # fmt: skip


def names(text: str) -> list[str]:
    return [each.strip() for each in text.split(",") if each.strip()]


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    usable = sorted(os.sched_getaffinity(0))
    parser.add_argument("--models", type=names, default=["base.en"], metavar="NAME,...",
                        help=f"of {','.join(DIMENSIONS)}")  # fmt: skip
    parser.add_argument(
        "--checkpoint", type=Path, help="real weights instead of random ones, a file or a folder"
    )
    parser.add_argument("--precision", type=names, default=list(PRECISIONS), metavar="NAME,...",
                        help="ours to measure, of %(default)s")  # fmt: skip
    parser.add_argument("--peers", type=names, default=[], metavar="NAME,...",
                        help="only those whose names begin so, ours included")  # fmt: skip
    parser.add_argument("--cores", type=lambda text: [int(each) for each in names(text)],
                        default=usable[:2], help="default: the first two")  # fmt: skip
    parser.add_argument("--tokens", type=int, default=NUM_TOKENS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--work", type=Path, metavar="DIR",
                        help="keep converted models there for the next run")  # fmt: skip
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path, help="an SVG of times and memory")
    options = parser.parse_args()
    unknown = [*set(options.models) - set(DIMENSIONS), *set(options.precision) - set(PRECISIONS)]
    if unknown:
        parser.error(f"{unknown[0]} is unknown: --help says which models and precisions there are")
    if not set(options.cores) <= set(usable) or options.tokens < 1 or options.rounds < 1:
        parser.error(f"cores are of {usable}; --tokens and --rounds begin at 1")
    return options


def checkpoints(options: argparse.Namespace, work: Path) -> dict[str, tuple[Path, Path]]:
    """For each model its checkpoint, and the folder for what is made from it."""
    if options.checkpoint:
        path = options.checkpoint.resolve()
        name = path.name if path.is_dir() else path.stem
        digest = sha256_of_source(read_checkpoint(path).files)
        return {name: (path, work / f"{name}-{digest[:12]}")}
    found = {}
    for name in options.models:
        path = work / f"{name}.pt"
        if not path.exists():
            progress(f"{name}: writing random weights")
            write_random_checkpoint(path.with_suffix(".unfinished"), name).rename(path)
        found[name] = (path, work / name)
    return found


def main() -> int:
    options = parse_options()
    os.sched_setaffinity(0, options.cores)
    with contextlib.ExitStack() as stack:
        work = options.work or Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="peers-"))
        )
        work.mkdir(parents=True, exist_ok=True)
        machine = describe_machine(options.cores)
        models = {
            name: compare(name, checkpoint, folder, options)
            for name, (checkpoint, folder) in checkpoints(options, work).items()
        }
    print_table(models, machine)
    result = worst_ratios(models)
    for name, value in result.items():
        print(f"{name}: {value}")
    if options.json:
        content = {
            **result,
            "models": models,
            "machine": machine,
            "command": shlex.join(["python", *sys.argv]),
            "num_tokens": options.tokens,
            "rounds": options.rounds,
            "runs_a_round": RUNS_A_TURN,
        }
        options.json.write_text(json.dumps(content, indent=2) + "\n")
    if options.plot:
        caption = (
            f"{machine['cpu']}, {len(options.cores)} cores, {options.tokens} tokens; "
            f"dashed: {THEIRS}; thin lines: 10th to 90th percentile"
        )
        options.plot.write_text(draw(models, THEIRS, caption))
    without = [name for name, model in models.items() if THEIRS not in model["peers"]]
    if without:
        print(f"peers.py: {THEIRS} was not measured, so there is no ratio: run `pip install -r "
              "benchmarks/peers.txt`", file=sys.stderr)  # fmt: skip
    return 1 if without else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except DuplexAsrError as error:
        sys.exit(f"peers.py: {error}")
