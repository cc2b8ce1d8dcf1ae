#!/usr/bin/env python3
"""What an engine makes of a recording on this machine, as one line; called by board_report.sh.

Exits with 0 and the line, or with 1 and what is wrong. Standard library only; engines run in a
process of their own, by the command line that users have.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
import wave
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from board_probe import Unknown, memory, run_probe

REPOSITORY = Path(__file__).resolve().parents[1]
DEMO = REPOSITORY / "engines" / "demo"
RECORDING = DEMO / "demo.flac"
DUPLEX_ASR = [sys.executable, "-m", "duplex_asr"]
LEAK_MIB = 50


@dataclass(frozen=True)
class Run:
    """Of a process that ended: what it said, how far MemAvailable fell, what it mapped."""

    returncode: int
    output: str
    errors: str
    fell_mib: int
    mapped: bool = False


def run(command: list[str], environment: dict[str, str] | None = None, look_for: str = "") -> Run:
    """Run and watch; look_for: a file name whose mapping into memory is watched for."""
    before = lowest = memory("MemAvailable")["MemAvailable"]
    mapped = False
    with (
        tempfile.TemporaryFile("w+") as out,
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(command, stdout=out, stderr=errors, env=environment) as process,
    ):
        while process.poll() is None:
            lowest = min(lowest, memory("MemAvailable")["MemAvailable"])
            mapped = mapped or (bool(look_for) and has_mapped(process.pid, look_for))
            time.sleep(0.1)
        out.seek(0)
        errors.seek(0)
        return Run(process.returncode, out.read(), errors.read(), before - lowest, mapped)


def has_mapped(pid: int, name: str) -> bool:
    try:
        return name in Path(f"/proc/{pid}/maps").read_text()
    except OSError:  # it has just ended
        return False


def run_well(command: list[str], environment: dict[str, str] | None = None) -> Run:
    result = run(command, environment)
    if result.returncode:
        end = result.errors.strip()[-500:]
        raise Unknown(f"{command[-1]}: ended with {result.returncode}: {end}")
    return result


# --- transcripts --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Heard:
    """What an engine made of a recording."""

    utterances: list[dict[str, Any]]
    run: Run

    @property
    def accepted(self) -> list[str]:
        return [each["text"] for each in self.utterances if not each["rejected"]]

    @property
    def texts(self) -> list[str]:
        """Rejected ones, too."""
        said = (each["text"] or each["rejected_text"] for each in self.utterances)
        return [text for text in said if text]

    @property
    def cost(self) -> str:
        stages = ("mel_ms", "encode_ms", "decode_ms")
        spent = sorted(sum(each["timings"][key] for key in stages) for each in self.utterances)
        errors = sum("error" in line.lower() for line in self.run.errors.splitlines())
        return (
            f"median {spent[len(spent) // 2]:.0f} ms an utterance, MemAvailable fell by "
            f"{self.run.fell_mib} MiB, {errors} lines about errors"
        )


def hear(engine: str, recording: Path = RECORDING, *options: str) -> Heard:
    command = [*DUPLEX_ASR, "transcribe", "--json", "--engine", engine, *options, str(recording)]
    result = run_well(command)
    return Heard([json.loads(line) for line in result.output.splitlines()], result)


def probe_demo(engine: str) -> str:
    """The bundled recording by an engine of the demo checkpoint, compared with what was said."""
    heard = hear(engine)
    said = [each["text"] for each in json.loads((DEMO / "demo.json").read_text()) if each["text"]]
    if heard.accepted != said:
        raise Unknown(f"heard {heard.accepted} instead of {said}")
    return f"{len(said)} texts as said, {heard.cost}"


def probe_speech(engine: str) -> str:
    """The bundled recording by any engine: what it made of it, and how fast."""
    heard = hear(engine)
    if not heard.texts:
        raise Unknown(
            f"no text in {len(heard.utterances)} utterances: wrong prompt or length unit?"
        )
    return f"{len(heard.texts)} texts, first {heard.texts[0]!r}, {heard.cost}"


def probe_long(engine: str) -> str:
    """All 19 s as one utterance: with the wrong length unit, an engine stops half-way."""
    heard = hear(engine, RECORDING, "--whole-file")
    return f"ends in: {' '.join(heard.texts)[-60:]}"


def probe_silence(engine: str) -> str:
    with tempfile.TemporaryDirectory(prefix="duplex-asr-board-") as folder:
        path = Path(folder) / "silence.wav"
        with wave.open(str(path), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(16000)
            file.writeframes(bytes(3 * 2 * 16000))
        utterance = hear(engine, path, "--whole-file").utterances[0]
    return f"{utterance['rejected'] or 'accepted'}, no_speech_prob {utterance['no_speech_prob']}"


def probe_same_tokens(engine: str, other: str) -> str:
    """Two engines of the same checkpoint, utterance by utterance."""
    manifests = [json.loads((Path(each) / "manifest.json").read_text()) for each in (engine, other)]
    if manifests[0]["source_sha256"] != manifests[1]["source_sha256"]:
        raise Unknown(f"{engine} and {other} were built from different checkpoints")
    pairs = list(zip(hear(engine).utterances, hear(other).utterances, strict=True))
    equal = sum(ours["tokens"] == theirs["tokens"] for ours, theirs in pairs)
    return f"tokens equal in {equal} of {len(pairs)} utterances"


def probe_leak(engine: str) -> str:
    """Three processes after another; the first may fill caches of the system."""
    hear(engine)
    before = memory("MemAvailable")["MemAvailable"]
    hear(engine)
    hear(engine)
    lost = before - memory("MemAvailable")["MemAvailable"]
    if lost > LEAK_MIB:
        raise Unknown(f"{lost} MiB are missing after two runs")
    return f"memory came back ({lost} MiB)"


def probe_mapped(engine: str) -> str:
    """Does the engine's file show in the process, instead of being read into memory?"""
    command = [*DUPLEX_ASR, "transcribe", "--engine", engine, str(RECORDING)]
    result = run(command, look_for="rank0.engine")
    if result.returncode:
        raise Unknown(f"transcribe ended with {result.returncode}: {result.errors.strip()[-300:]}")
    return "rank0.engine was mapped" if result.mapped else "rank0.engine was read"


def probe_refusal(engine: str) -> str:
    """A copy of a folder whose manifest names another TensorRT must not be loaded."""
    manifest = json.loads((Path(engine) / "manifest.json").read_text())
    manifest["built_with"]["tensorrt"] = "9.9.9"
    with tempfile.TemporaryDirectory(prefix="duplex-asr-board-") as folder:
        for name in manifest["files"]:
            (Path(folder) / name).parent.mkdir(parents=True, exist_ok=True)
            (Path(folder) / name).symlink_to(Path(engine).resolve() / name)
        (Path(folder) / "manifest.json").write_text(json.dumps(manifest))
        result = run([*DUPLEX_ASR, "transcribe", "--engine", folder, str(RECORDING)])
    return f"exit code {result.returncode}: {result.errors.strip()[-300:]}"


# --- building -----------------------------------------------------------------------------------


def demo_thresholds() -> list[str]:
    """NAME=VALUE of the thresholds that the demo checkpoint wants."""
    manifest = json.loads((DEMO / "manifest.json").read_text())
    return [f"{name}={value}" for name, value in manifest["decoding"].items()]


def build_demo(backend: str, precision: str, folder: str) -> None:
    run_well([
        *DUPLEX_ASR, "build", str(DEMO / "checkpoint.pt"), "--backend", backend,
        "--precision", precision, "--output", folder,
        "--tokenizer", str(DEMO / "tokenizer.tiktoken"),
        *(f"--threshold={each}" for each in demo_thresholds()),
    ])  # fmt: skip


def probe_build(backend: str, precision: str) -> str:
    """An engine of the demo checkpoint in a temporary folder, and the bundled recording by it."""
    with tempfile.TemporaryDirectory(prefix="duplex-asr-board-") as folder:
        build_demo(backend, precision, f"{folder}/engine")
        return probe_demo(f"{folder}/engine")


def probe_plans() -> str:
    """TensorRT plans of the demo checkpoint in a temporary folder, and the bundled recording."""
    with tempfile.TemporaryDirectory(prefix="duplex-asr-board-") as folder:
        plans = f"{folder}/plans"
        environment = {
            **os.environ,
            "MODEL_NAME": "demo",
            "CHECKPOINT": str(DEMO / "checkpoint.pt"),
            "TOKENIZER": str(DEMO / "tokenizer.tiktoken"),
            "THRESHOLDS": " ".join(demo_thresholds()),
            "ENGINE_DIR": plans,
        }
        started = time.monotonic()
        built = run_well([f"{REPOSITORY}/build_scripts/build_tensorrt.sh"], environment)
        building = f"built in {time.monotonic() - started:.0f} s with {built.fell_mib} MiB"
        return f"{probe_demo(plans)}; {building}"


def probe_layers() -> str:
    """Builds the demo decoder in fp16, and counts layers that were to stay in single precision."""
    with tempfile.TemporaryDirectory(prefix="duplex-asr-board-") as folder:
        build_demo("tensorrt", "fp16", f"{folder}/graphs")
        part = json.loads(Path(f"{folder}/graphs/trtexec.json").read_text())["decoder"]
        result = run_well([
            "trtexec", f"--onnx={folder}/graphs/{part['onnx']}", *part["arguments"],
            f"--saveEngine={folder}/decoder.plan", "--memPoolSize=workspace:512",
            "--profilingVerbosity=detailed", "--dumpLayerInfo", "--skipInference",
        ])  # fmt: skip
    lines = [line for line in result.output.splitlines() if "layernormalization" in line.lower()]
    half = sum("half" in line.lower() for line in lines)
    lost = sum("not found" in line.lower() for line in (result.output + result.errors).splitlines())
    return f"{len(lines)} lines about norms, {half} with halves, {lost} names not found"


def probe_flags() -> str:
    """Flags that build_base_en.sh gives to trtllm-build, against those that it knows."""
    script = f"{REPOSITORY}/build_scripts/build_base_en.sh"
    commands = run_well([script, "--dry-run"]).output.replace("\\\n", " ").splitlines()
    used = {
        word
        for command in commands
        if command.lstrip().startswith("trtllm-build ")
        for word in re.findall(r"--[a-z_]+", command)
    }
    known = set(re.findall(r"--[a-z_]+", run_well(["trtllm-build", "--help"]).output))
    if unknown := sorted(used - known):
        raise Unknown(f"trtllm-build does not know {', '.join(unknown)}")
    return f"{len(used)} flags are known"


def probe_voice(folder: str) -> str:
    """Loads each plan of a voice with trtexec, which runs it a few times."""
    plans = sorted(Path(folder).rglob("*.plan"))
    for plan in plans:
        result = run_well(["trtexec", "--duration=1", "--iterations=3", f"--loadEngine={plan}"])
        if "PASSED TensorRT.trtexec" not in result.output:
            raise Unknown(f"trtexec does not pass {plan.name}: {result.output.strip()[-300:]}")
    if not plans:
        raise Unknown(f"no plan in {folder}")
    return f"{len(plans)} plans passed"


# --- engine folders -----------------------------------------------------------------------------


def probe_find(backend: str, engines: str) -> str:
    """First folder of a back end; trtllm-paged and trtllm-contiguous tell the KV layout, too."""
    for path in sorted(Path(engines).rglob("manifest.json")):
        if path.parent == DEMO:
            continue
        try:
            manifest = json.loads(path.read_text())
        except (OSError, ValueError):
            continue
        layout = manifest.get("built_with", {}).get("kv_cache", "")
        if backend in (manifest.get("backend"), f"{manifest.get('backend')}-{layout}"):
            return str(path.parent)
    raise Unknown("")


def probe_plugins(folder: str) -> str:
    """What a TensorRT-LLM decoder was built with; `context_fmha` may be true, false or a name."""
    build = json.loads((Path(folder) / "decoder/config.json").read_text())["build_config"]
    wanted = ("context_fmha", "paged_kv_cache", "remove_input_padding", "gpt_attention_plugin")
    plugins = build["plugin_config"]
    return ", ".join(f"{name} {json.dumps(plugins[name])}" for name in wanted if name in plugins)


def probe_plan_size(folder: str) -> str:
    """The decoder's plan against its weights: is the token embedding in it once or twice?"""
    manifest = json.loads((Path(folder) / "manifest.json").read_text())
    sizes = manifest["dimensions"]
    width, layers = sizes["n_text_state"], sizes["n_text_layer"]
    item = 2 if manifest["precision"] == "fp16" else 4
    embedding = sizes["n_vocab"] * width * item
    # A layer: query, key, value and output of itself, query and output of cross-attention (its
    # keys and values belong to the encoder's graph), and the MLP's 4 + 4.
    weights = embedding + layers * (4 + 2 + 8) * width * width * item
    plan = (Path(folder) / "decoder.plan").stat().st_size
    times = "once" if plan < weights + embedding / 2 else "twice"
    return f"decoder.plan has {plan / 1e6:.0f} MB for {weights / 1e6:.0f} MB: the embedding {times}"


if __name__ == "__main__":
    sys.exit(run_probe(globals(), "What an engine makes of a recording, as one line."))
