"""What each precision of `duplex-asr build` for the CPU costs in size, speed and agreement.

    python benchmarks/precisions.py DATA [--every 10] [--json FILE]

Prints the table of docs/benchmarks.md. Size, time and memory are those of a model of --model's
dimensions with random weights, measured as peers.py does: a process for each precision, turns that
go round. Agreement is with fp32. Logits: norm of the difference over the norm of fp32's, after
the same tokens. Tokens: the demo engine on every tenth recording of DATA's manifest.jsonl, decoded
greedily to the end; a recording agrees if all its tokens do, and a text if what the guard against
silence leaves of it does.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from cpu_peers import our_peer
from peers import (
    NUM_TOKENS,
    describe_machine,
    first_difference,
    make_job,
    measure,
    names,
    progress,
    row,
)
from random_models import DIMENSIONS, write_random_checkpoint

from duplex_asr.asr.engines import DEMO_ENGINE, load_engine
from duplex_asr.asr.engines.stepwise import StepwiseEngine
from duplex_asr.asr.export.build import PRECISIONS, build_onnx_engine
from duplex_asr.asr.manifest import read_manifest
from duplex_asr.asr.mel import N_SAMPLES, Mel, log_mel_spectrogram
from duplex_asr.audio.files import FileSource

REFERENCE = "fp32"


@dataclass(frozen=True)
class Answer:
    """What one engine makes of one recording. text_tokens: none if it is taken for silence."""

    tokens: tuple[int, ...]
    text_tokens: tuple[int, ...]
    logits: np.ndarray[Any, Any]  # (n, n_vocab), after the reference's tokens


def read_mels(data: Path, every: int) -> list[Mel]:
    """Spectrograms of every so manieth recording, of its first 30 s."""
    rows = [json.loads(line) for line in (data / "manifest.jsonl").read_text().splitlines()]
    mels = []
    for each in rows[::every]:
        frames = FileSource(data / each["path"], realtime=False).frames()
        samples = np.concatenate([frame.samples for frame in frames])
        mels.append(log_mel_spectrogram(samples[:N_SAMPLES], 80))
    return mels


def answer(engine: StepwiseEngine, mel: Mel, reference: Sequence[int] | None) -> Answer:
    """reference: the tokens after which logits are compared; None: this engine's own."""
    prompt = engine.tokenizer.prompt()
    encoded = engine.encode(mel)  # type: ignore[attr-defined]
    decoding = engine.decode(encoded, prompt, engine.dimensions.n_text_ctx - len(prompt))
    after = decoding.tokens if reference is None else reference
    logits = engine.logits(encoded, [*prompt, *after])
    encoded.release()
    is_silence = decoding.no_speech_prob > engine.thresholds["no_speech_threshold"]  # type: ignore[attr-defined]
    return Answer(decoding.tokens, () if is_silence else decoding.tokens, logits)


def compare_demo(precisions: Sequence[str], mels: Sequence[Mel], work: Path) -> dict[str, Any]:
    """Agreement of the demo engine in each precision with the one in fp32."""
    demo = read_manifest(DEMO_ENGINE)
    found: dict[str, Any] = {}
    reference: list[Answer] = []
    for precision in (REFERENCE, *(each for each in precisions if each != REFERENCE)):
        progress(f"demo engine, {precision}: {len(mels)} recordings")
        folder = work / f"demo-{precision}"
        build_onnx_engine(
            DEMO_ENGINE / "checkpoint.pt", folder, precision,
            tokenizer_path=DEMO_ENGINE / "tokenizer.tiktoken", decoding=demo.decoding,
        )  # fmt: skip
        engine = load_engine(folder)
        assert isinstance(engine, StepwiseEngine)
        known: Sequence[tuple[int, ...] | None] = (
            [each.tokens for each in reference] if reference else [None] * len(mels)
        )
        answers = [answer(engine, mel, after) for mel, after in zip(mels, known, strict=True)]
        engine.close()
        reference = reference or answers
        found[precision] = agreement(answers, reference)
    return found


def agreement(answers: Sequence[Answer], reference: Sequence[Answer]) -> dict[str, float]:
    """Shares of what is the same, and errors of logits."""
    pairs = list(zip(answers, reference, strict=True))
    errors = [relative_error(one.logits, other.logits) for one, other in pairs]
    num_tokens = sum(len(other.tokens) for _, other in pairs)
    same_tokens = sum(common_start(one.tokens, other.tokens) for one, other in pairs)
    return {
        "recordings": len(pairs),
        "same_recordings": sum(one.tokens == other.tokens for one, other in pairs),
        "same_texts": sum(one.text_tokens == other.text_tokens for one, other in pairs),
        "tokens": num_tokens,
        "same_tokens": same_tokens,
        "logits_error_median": float(np.median(errors)),
        "logits_error_worst": max(errors),
    }


def common_start(tokens: Sequence[int], reference: Sequence[int]) -> int:
    length = min(len(tokens), len(reference))
    return first_difference(tokens[:length], reference[:length])


def relative_error(values: np.ndarray[Any, Any], reference: np.ndarray[Any, Any]) -> float:
    return float(np.linalg.norm(values - reference) / np.linalg.norm(reference))


def measure_model(
    name: str, precisions: Sequence[str], work: Path, cores: Sequence[int], rounds: int
) -> dict[str, Any]:
    """Size, time and memory of each precision of a model with random weights, and its logits."""
    checkpoint = write_random_checkpoint(work / f"{name}.pt", name)
    job = make_job(checkpoint, name, NUM_TOKENS)
    folder = work / name
    folder.mkdir()
    peers = [our_peer(each) for each in precisions]
    measured, absent = measure(peers, job, checkpoint, folder, len(cores), rounds)
    assert not absent, absent
    found: dict[str, Any] = {}
    tokens = measured[0].runs[-1]["tokens"]
    reference = None
    for precision, each in zip(precisions, measured, strict=True):
        figures = row(each, NUM_TOKENS, tokens)
        engine_folder = folder / each.peer.name.replace(" ", "-")
        engine = load_engine(engine_folder, len(cores))
        assert isinstance(engine, StepwiseEngine)
        logits = engine.logits(engine.encode(job.mel), [*job.prompt, *tokens])
        engine.close()
        reference = logits if reference is None else reference
        figures["logits_error"] = relative_error(logits, reference)
        figures["disk_mb"] = round(
            sum(each["bytes"] for each in read_manifest(engine_folder).files.values()) / 1e6, 1
        )
        found[precision] = figures
    return found


def print_table(model: str, figures: dict[str, Any], demo: dict[str, Any]) -> None:
    columns = (
        "precision", f"{model} on disk", "encoder", "decoder", "time of fp32's", "peak memory",
        "logits error, random weights", "logits error, demo: median, worst",
        "demo recordings with the same tokens", "with the same text",
    )  # fmt: skip
    print("| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|")
    slowest = figures[REFERENCE]["total_ms"]["median"]
    for precision, found in figures.items():
        heard = demo[precision]
        total = heard["recordings"]
        cells = (
            precision, f"{found['disk_mb']:.0f} MB", f"{found['encoder_ms']['median']:.0f} ms",
            f"{found['decoder_ms']['median']:.0f} ms",
            f"{found['total_ms']['median'] / slowest:.2f}", f"{found['peak_mb']:.0f} MB",
            f"{found['logits_error']:.1e}",
            f"{heard['logits_error_median']:.1e}, {heard['logits_error_worst']:.1e}",
            f"{heard['same_recordings']} of {total}", f"{heard['same_texts']} of {total}",
        )  # fmt: skip
        print("| " + " | ".join(cells) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--every", type=int, default=10, help="take every so manieth recording")
    parser.add_argument("--model", choices=DIMENSIONS, default="base.en")
    parser.add_argument("--precision", type=names, default=list(PRECISIONS), metavar="NAME,...",
                        help=f"besides {REFERENCE}, of %(default)s")  # fmt: skip
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if unknown := set(options.precision) - set(PRECISIONS):
        parser.error(f"no precision {min(unknown)}: there are {', '.join(PRECISIONS)}")
    cores = sorted(os.sched_getaffinity(0))[:2]
    os.sched_setaffinity(0, cores)
    precisions = [REFERENCE, *(each for each in options.precision if each != REFERENCE)]
    machine = describe_machine(cores)
    with tempfile.TemporaryDirectory(prefix="precisions-") as folder:
        figures = measure_model(options.model, precisions, Path(folder), cores, options.rounds)
        demo = compare_demo(precisions, read_mels(options.data, options.every), Path(folder))
    print_table(options.model, figures, demo)
    if options.json:
        content = {"model": options.model, "precisions": figures, "demo": demo, "machine": machine}
        options.json.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
