from __future__ import annotations

from pathlib import Path

import pytest

from tests.doctor.recorded import JETSON, PC, Machine, recorded_machine


@pytest.fixture
def jetson(tmp_path: Path) -> Machine:
    """An Orin Nano 8 GB with JetPack 6.2 (L4T 36.4.3), a desktop and a USB sound card."""
    return recorded_machine(JETSON, tmp_path / "jetson")


@pytest.fixture
def pc(tmp_path: Path) -> Machine:
    """A laptop without a GPU on which alice is logged in, with PipeWire."""
    return recorded_machine(PC, tmp_path / "pc")
