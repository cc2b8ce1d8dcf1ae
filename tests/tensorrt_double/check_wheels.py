"""Compares tests/tensorrt_double/signatures with NVIDIA's own Python packages; needs a network.

    python tests/tensorrt_double/check_wheels.py [FOLDER]

Downloads the bindings of TensorRT 10.3 (the version of JetPack 6), which cannot be imported without
its libraries, and looks for each name in their binary; and the lean bindings of newer versions,
which can be imported without a GPU, in a process of their own, and compares parameters too. Wheels
are kept in FOLDER (default: a temporary one).
Exit code: 0 all there, 1 something is missing, 2 no download.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

SIGNATURES = Path(__file__).parent / "signatures" / "tensorrt.json"
IN_BINARY = ["tensorrt-cu12-bindings==10.3.0"]
# Newest of each kind that the package index has; libraries and bindings of one version.
IMPORTABLE = [
    ["tensorrt-lean-cu13-libs==11.*", "tensorrt-lean-cu13-bindings==11.*"],
    ["tensorrt-lean-cu12-libs==10.16.*", "tensorrt-lean-cu12-bindings==10.16.*"],
]

# Runs in a process of its own: prints what the module says of each class of the signatures.
# It never deserializes a plan: without a GPU that ends the process.
DESCRIBE = """
import json, sys
sys.path.insert(0, sys.argv[1])
import tensorrt_lean_bindings as trt
data = json.load(open(sys.argv[2]))
found = {"version": trt.__version__, "classes": {}, "enums": {}}
for name, description in data["classes"].items():
    owner = getattr(trt, name)
    names = [*description.get("methods", {}), *description.get("attributes", [])]
    found["classes"][name] = {
        each: getattr(owner, each).__doc__ or "" for each in names if hasattr(owner, each)
    }
    if "constructor" in description:
        found["classes"][name]["__init__"] = owner.__init__.__doc__ or ""
for name in data["enums"]:
    owner = trt
    for part in name.split("."):
        owner = getattr(owner, part)
    found["enums"][name] = dir(owner)
print(json.dumps(found))
"""


class NoDownloadError(Exception):
    """The package index cannot be reached, or does not have a wheel for this Python."""


def main(arguments: list[str]) -> int:
    data = json.loads(SIGNATURES.read_text())
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(arguments[0] if arguments else temporary)
        try:
            problems = check_binary(data, folder) + check_importable(data, folder)
        except NoDownloadError as error:
            print(f"not checked: {error}")
            return 2
    for problem in problems:
        print(problem)
    return 1 if problems else 0


def check_binary(data: dict[str, Any], folder: Path) -> list[str]:
    """Names of the signatures that the binary of the bindings does not hold."""
    unpacked = download(IN_BINARY, folder)
    (binary,) = unpacked.glob("tensorrt_bindings/tensorrt.so")
    content = binary.read_bytes()
    names = [
        name
        for description in data["classes"].values()
        for kind in ("methods", "attributes", "callbacks")
        for name in description.get(kind, [])
    ]
    names += [*data["classes"], *(each for members in data["enums"].values() for each in members)]
    # Only the end of a name is marked: linkers store "Runtime" as the end of "IRuntime".
    missing = [name for name in names if name.encode() + b"\0" not in content]
    print(f"{IN_BINARY[0]}: {len(names) - len(missing)} of {len(names)} names found in its binary")
    return [f"{IN_BINARY[0]} has no {name}" for name in missing]


def check_importable(data: dict[str, Any], folder: Path) -> list[str]:
    problems = []
    for packages in IMPORTABLE:
        unpacked = download(packages, folder)
        command = [sys.executable, "-c", DESCRIBE, str(unpacked), str(SIGNATURES)]
        answer = subprocess.run(command, capture_output=True, text=True, timeout=120)
        if answer.returncode:
            problems.append(f"{packages[1]} cannot be imported: {answer.stderr.strip()[-300:]}")
            continue
        found = json.loads(answer.stdout)
        missing = compare(data, found)
        print(f"tensorrt {found['version']}: classes and parameters compared, {len(missing)} wrong")
        problems += [f"tensorrt {found['version']}: {each}" for each in missing]
    return problems


def compare(data: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """Methods, attributes, parameters and enum members that the module does not have."""
    problems = []
    for name, description in data["classes"].items():
        there = found["classes"][name]
        for attribute in description.get("attributes", []):
            if attribute not in there:
                problems.append(f"{name} has no {attribute}")
        methods = dict(description.get("methods", {}))
        if description.get("constructor"):
            methods["__init__"] = description["constructor"]
        for method, parameters in methods.items():
            if method not in there:
                problems.append(f"{name} has no {method}")
                continue
            for parameter, _ in parameters:
                if f" {parameter}: " not in there[method]:
                    problems.append(f"{name}.{method} has no parameter {parameter}")
    for name, members in data["enums"].items():
        missing = set(members) - set(found["enums"][name])
        problems += [f"{name} has no {member}" for member in sorted(missing)]
    return problems


def download(packages: list[str], folder: Path) -> Path:
    """Fetch wheels through pip, and unpack them into one folder."""
    target = folder / packages[0].replace("==", "-").replace("*", "x")
    if not target.is_dir():
        wheels = target.with_name(f"{target.name}.wheels")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps",
                   "--only-binary", ":all:", "--dest", str(wheels), *packages]  # fmt: skip
        answer = subprocess.run(command, capture_output=True, text=True, timeout=500)
        if answer.returncode:
            errors = [line for line in answer.stderr.splitlines() if line.startswith("ERROR")]
            raise NoDownloadError(f"pip cannot download {packages}: {' '.join(errors)[-300:]}")
        for wheel in wheels.glob("*.whl"):
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(target)
    return target


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
