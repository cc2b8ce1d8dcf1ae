from __future__ import annotations

from pathlib import Path

import pytest

from tests.build_scripts.board import Board, give_tools, make_board


@pytest.fixture
def jetson(tmp_path: Path) -> Board:
    """An Orin Nano 8 GB with JetPack 6.2, TensorRT 10.3 and TensorRT-LLM 0.12."""
    return give_tools(make_board(tmp_path, "orin-nano-jetpack-6.2"))


@pytest.fixture
def pc(tmp_path: Path) -> Board:
    """A PC without a GPU and without any of NVIDIA's tools."""
    return make_board(tmp_path, "pc")
