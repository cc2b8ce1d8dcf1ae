from __future__ import annotations

import gc
import shutil
import signal
import subprocess
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.soundcard import SoundCard, missing_programs, open_sound_card
from tests.stolen_time import StolenTime, telling_stolen_time


def pytest_configure() -> None:
    """Have Ctrl-C heard by this and by what it starts, also where a shell without job control
    started it in the background, with SIGINT ignored."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """Take what importing all tests has left for lasting: a test that collects its own garbage, to
    see whether anything was left open, need not go through hundreds of thousands of others."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Tell a failure from that of a machine which was taken away; see stolen_time."""
    if not any(item.iter_markers("alone")) and not any(item.iter_markers("soundcard")):
        return (yield)
    num_attempts = item.config.getoption("reruns") + 1
    try:
        with telling_stolen_time():
            return (yield)
    except StolenTime as failure:
        if getattr(item, "execution_count", num_attempts) < num_attempts:
            raise
        pytest.skip(f"{num_attempts} attempts, and in each {failure}")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Recorded speech of real people, kept beside the checkout and not in it."""
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not (folder / "manifest.jsonl").is_file():
        pytest.skip(f"no recorded speech in {folder}")
    return folder


@pytest.fixture(scope="session")
def sound_card(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SoundCard]:
    """A software sound card with a room, in which recordings are played, and its microphone."""
    if reason := missing_programs():
        pytest.skip(reason)
    with open_sound_card(tmp_path_factory.mktemp("soundcard")) as card:
        yield card


@pytest.fixture(scope="session")
def reference_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The native engine's C interface over plain C++: all but the kernels is the real thing."""
    if not shutil.which("g++"):
        pytest.skip("needs g++ to compile the native engine's CPU reference")
    folder = tmp_path_factory.mktemp("library")
    script = Path(__file__).parents[1] / "build_scripts" / "build_cuda_engine.sh"
    command = [str(script), "--reference", "--output", str(folder)]
    subprocess.run(command, check=True, capture_output=True)
    return folder / "libduplex_whisper_reference.so"
