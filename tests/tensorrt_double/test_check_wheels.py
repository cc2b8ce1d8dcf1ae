"""The comparison of our signatures with NVIDIA's packages finds what differs."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.tensorrt_double import check_wheels

SCRIPT = Path(check_wheels.__file__)


@pytest.fixture
def data() -> Any:
    return json.loads(check_wheels.SIGNATURES.read_text())


@pytest.fixture
def found(data: Any) -> Any:
    """What a module would say of itself that has all that the signatures name."""
    classes = {}
    for name, description in data["classes"].items():
        methods = dict(description.get("methods", {}))
        if description.get("constructor"):
            methods["__init__"] = description["constructor"]
        classes[name] = {
            method: "self, " + "".join(f" {parameter}: kind," for parameter, _ in parameters)
            for method, parameters in methods.items()
        } | dict.fromkeys(description.get("attributes", []), "")
    return {"version": "1", "classes": classes, "enums": copy.deepcopy(data["enums"])}


def test_the_same_is_the_same(data: Any, found: Any) -> None:
    assert check_wheels.compare(data, found) == []


def test_each_difference_is_named(data: Any, found: Any) -> None:
    del found["classes"]["IExecutionContext"]["execute_async_v3"]
    del found["classes"]["ICudaEngine"]["num_io_tensors"]
    found["classes"]["Runtime"]["__init__"] = "self, journal: kind"
    found["enums"]["TensorIOMode"].remove("INPUT")
    assert sorted(check_wheels.compare(data, found)) == [
        "ICudaEngine has no num_io_tensors",
        "IExecutionContext has no execute_async_v3",
        "Runtime.__init__ has no parameter logger",
        "TensorIOMode has no INPUT",
    ]


def test_a_name_that_is_not_in_the_binary_is_named(data: Any, tmp_path: Path) -> None:
    package = tmp_path / check_wheels.IN_BINARY[0].replace("==", "-") / "tensorrt_bindings"
    package.mkdir(parents=True)
    names = [*data["classes"], *(each for members in data["enums"].values() for each in members)]
    for description in data["classes"].values():
        for kind in ("methods", "attributes", "callbacks"):
            names += description.get(kind, [])
    names.remove("set_device_memory")
    (package / "tensorrt.so").write_bytes(b"".join(name.encode() + b"\0" for name in names))
    assert check_wheels.check_binary(data, tmp_path) == [
        f"{check_wheels.IN_BINARY[0]} has no set_device_memory"
    ]


@pytest.mark.reference
@pytest.mark.timeout(600)
def test_the_signatures_are_those_of_nvidia_s_packages() -> None:
    """Downloads some 90 MB of wheels."""
    answer = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True)
    print(answer.stdout)
    if answer.returncode == 2:
        pytest.skip(answer.stdout.strip())
    assert answer.returncode == 0, answer.stdout + answer.stderr
