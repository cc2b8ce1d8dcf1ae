"""The speech engine's folder against this hardware, and the voice."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator

from duplex_asr.asr.engines.cuda_library import CudaLibrary, find_library
from duplex_asr.asr.engines.own_operators import LIBRARY_NAME, check_operators
from duplex_asr.asr.engines.tensorrt import check_gpu, check_version
from duplex_asr.asr.manifest import TOKENIZER_NAME, check_files
from duplex_asr.asr.tokenizer import Tokenizer, read_ranks
from duplex_asr.asr.transcriber import check_transcription
from duplex_asr.doctor.examination import Examination
from duplex_asr.doctor.finding import Finding
from duplex_asr.doctor.host import Host
from duplex_asr.errors import ConfigError, EngineError, VoiceError
from duplex_asr.tts.voices import load_voice

SYSTEM_ON_CHIP = {"tegra234": "87", "tegra194": "72"}  # Orin, Xavier
WHY = "an engine that does not fit is refused at the start, with exit code 3"
WHY_VOICE = "without a voice the daemon does not start, with exit code 3"
HOW_TO_BUILD = "duplex-asr build CHECKPOINT.pt --output DIR && duplex-asr serve --engine DIR"
REBUILD = "build it again on this machine, with the build script of its back end"
CUDA_DRIVER = "/usr/lib/*/libcuda.so.1", "/usr/lib/*/nvidia/libcuda.so.1", "/usr/lib*/libcuda.so.1"


def gpu_architecture(host: Host) -> str:
    """Compute capability as "87": by the name of the system on chip, else by nvidia-smi; "" if
    there is no GPU."""
    compatible = host.text("/proc/device-tree/compatible")
    for chip, architecture in SYSTEM_ON_CHIP.items():
        if chip in compatible:
            return architecture
    answer = host.run(("nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"))
    if answer is None or answer.exit_code:
        return ""
    return answer.output.split("\n")[0].strip().replace(".", "")


def check_engine(exam: Examination) -> Iterator[Finding]:
    """Manifest, checksums, back end and language of the engine, as its loading would check them."""
    folder, manifest = exam.engine_folder, exam.manifest
    if folder is None or manifest is None:
        message, fix = split(exam.engine_problem)
        yield Finding("engine", "failed", message, WHY, fix or HOW_TO_BUILD)
        return
    try:
        check_files(folder, manifest)
        where = _check_hardware(exam)
        ranks = read_ranks(folder / TOKENIZER_NAME)
        size = manifest.dimensions
        tokenizer = Tokenizer(ranks, size.n_vocab, size.is_multilingual)
        check_transcription(exam.config.transcription, tokenizer, manifest.backend)
    except (EngineError, ConfigError) as error:
        message, fix = split(str(error))
        yield Finding("engine", "failed", message, WHY, fix or HOW_TO_BUILD)
        return
    what = f"{manifest.name} ({manifest.backend}, {manifest.precision}) in {folder} is whole{where}"
    yield Finding("engine", "ok", what, WHY)


def _check_hardware(exam: Examination) -> str:
    """Raise EngineError if this machine cannot run the engine; what it runs on, for a sentence."""
    folder, manifest = exam.engine_folder, exam.manifest
    assert folder is not None and manifest is not None
    if manifest.backend == "onnx":
        if LIBRARY_NAME not in manifest.files:
            return ", for any processor"
        check_operators(folder)
        return ", with operators for this processor"
    running = gpu_architecture(exam.host)
    if not running:
        raise EngineError(
            f"{folder} is an engine for a GPU ({manifest.backend}) and none is found here: "
            "duplex-asr build CHECKPOINT.pt --backend onnx --output DIR"
        )
    if manifest.backend == "cuda":
        library = CudaLibrary(find_library(exam.config.cuda.library, folder))
        built = [str(each) for each in library.build_info.get("architectures", ())]
        if library.build_info.get("kind") == "cuda" and running not in built:
            raise EngineError(
                f"{library.path} was compiled for sm_{', sm_'.join(built)} and this GPU is"
                f" sm_{running}: build_scripts/build_cuda_engine.sh --arch sm_{running} --output"
                " engines/cuda/build"
            )
        return f", for this GPU (sm_{running})"
    check_gpu(folder, manifest, running, REBUILD)
    for package in ("tensorrt", "tensorrt_llm"):
        version = installed(package)
        if version and package in manifest.built_with:
            check_version(folder, manifest, package, version, REBUILD)
    return f", for this GPU (sm_{running})"


def split(message: str) -> tuple[str, str]:
    """One of our sentences as what is wrong and what to do about it, which stands behind the last
    colon; the latter is "" where it is missing."""
    what, _, fix = message.rpartition(": ")
    return (what, fix) if what else (message, "")


def installed(package: str) -> str:
    """The version of a Python package; "" if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def check_voice(exam: Examination) -> Iterator[Finding]:
    """The voice, loaded if no daemon has it loaded already."""
    voice = exam.config.voice
    loaded = ((exam.daemon.status or {}).get("voice") or {}) if exam.daemon is not None else {}
    if "name" in loaded:
        state = loaded.get("state", "loaded")
        yield Finding("voice", "ok", f"{loaded['name']} is {state} in the daemon", WHY_VOICE)
        return
    try:
        load_voice(voice).close()
    except VoiceError as error:
        message, fix = split(str(error))
        yield Finding("voice", "failed", message, WHY_VOICE, fix or "see docs/voices.md")
        return
    yield Finding(
        "voice", "ok", f"{voice.engine} {voice.name or voice.language} can be loaded", WHY_VOICE
    )
