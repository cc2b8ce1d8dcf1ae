from __future__ import annotations

import os
from pathlib import Path

import pytest

from duplex_asr.config import Config, load_config
from duplex_asr.reloading import Reloading
from duplex_asr.service.notify import Notifier
from duplex_asr.service.supervision import Supervision

NOBODY = Supervision(Notifier(""))


def reloading(path: Path) -> Reloading:
    return Reloading(load_config(path), path, lambda: load_config(path), NOBODY)


def test_a_changed_file_is_applied_and_holds(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    path = tmp_path / "my.toml"
    path.write_text("[endpointer]\nthreshold = 0.6\n")
    running = reloading(path)
    path.write_text('[endpointer]\nthreshold = 0.8\n[voice]\nname = "de"\n')
    applied: list[Config] = []
    running.reload(applied.append)
    assert applied == [running.config]
    assert running.config.endpointer.threshold == 0.8
    assert running.config.voice.name == ""
    assert caplog.messages == [
        "the configuration was reloaded: changed endpointer.threshold; after a restart: voice.name"
    ]


@pytest.mark.parametrize("text", ["[endpointer]\nthreshold = 9\n", "what is this", "[nothing]\n"])
def test_a_bad_file_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    path = tmp_path / "my.toml"
    path.write_text("[endpointer]\nthreshold = 0.6\n")
    running = reloading(path)
    path.write_text(text)
    running.reload(lambda config: pytest.fail("a bad file was applied"))
    assert running.config.endpointer.threshold == 0.6
    assert "the old one holds" in caplog.text and str(path) in caplog.text


def test_a_file_that_is_gone_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "my.toml"
    path.write_text("")
    running = reloading(path)
    path.unlink()
    running.reload(lambda config: pytest.fail("nothing was applied"))
    assert "cannot read the configuration" in caplog.text


def test_a_pipe_is_not_waited_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    running = Reloading(Config(), path, lambda: pytest.fail("it was read"), NOBODY)
    running.reload(lambda config: pytest.fail("nothing was applied"))
    assert "no file that can be read twice" in caplog.text


def test_without_a_file_there_is_nothing_to_reload(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    Reloading(Config(), None, Config, NOBODY).reload(lambda config: pytest.fail("applied"))
    assert caplog.messages == ["nothing to reload: the daemon was started without --config"]
