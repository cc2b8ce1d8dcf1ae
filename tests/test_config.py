from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from duplex_asr.config import DEFAULT_TOML, Config, load_config
from duplex_asr.errors import ConfigError


def test_default_toml_says_what_the_defaults_are() -> None:
    assert load_config(DEFAULT_TOML) == Config() == load_config(None)


def test_default_toml_describes_every_setting() -> None:
    text = DEFAULT_TOML.read_text()
    for section in fields(Config):
        part = text.split(f"[{section.name}]")[1].split("\n[")[0]
        for setting in fields(section.default_factory):  # type: ignore[arg-type]
            assert f"\n{setting.name} = " in part or f"\n# {setting.name} = " in part


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "my.toml"
    path.write_text(text)
    return path


def test_a_file_changes_only_what_it_names(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, "[endpointer]\nmin_silence_ms = 700\nthreshold = 4e-1\n"))
    assert config.endpointer.min_silence_ms == 700
    assert config.endpointer.pre_roll_ms == Config().endpointer.pre_roll_ms
    assert config.audio == Config().audio


def test_options_go_over_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, '[audio]\nsource = "stdin:"\n')
    config = load_config(path, {"audio": {"source": "microphone:USB"}, "engine": {}})
    assert config.audio.source == "microphone:USB"


def test_a_whole_number_may_stand_for_a_number(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, "[transcription]\nmin_avg_logprob = -2\n"))
    assert config.transcription.min_avg_logprob == -2.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "[endpointer]\nmin_silence = 1",
            r"endpointer\.min_silence is no setting; did you mean min_s",
        ),
        ("[endpoint]\n", r"\[endpoint\] is no section; did you mean endpointer"),
        ("[zzz]\n", r"\[zzz\] is no section; there are audio, echo, vad"),
        ("audio = 3", r"audio must be a section"),
        (
            "[endpointer]\nmin_silence_ms = 5",
            r"min_silence_ms = 5: it must be between 100 and 5000",
        ),
        ("[endpointer]\nmin_silence_ms = 5.5", r"min_silence_ms = 5.5: it must be a whole number"),
        (
            "[endpointer]\nmin_silence_ms = true",
            r"min_silence_ms = True: it must be a whole number",
        ),
        ("[endpointer]\nthreshold = nan", r"threshold = nan: it must be between"),
        ('[audio]\nrealtime = "yes"', r"realtime = 'yes': it must be true or false"),
        ('[vad]\ndetector = "ears"', r"detector = 'ears': allowed values are 'silero', 'webrtc'"),
        ("[vad]\nwebrtc_window_ms = 25", r"allowed values are 10, 20, 30"),
        ("[vad\n", r"is not valid TOML"),
        ("a = \xff", r"is not valid TOML"),
    ],
)
def test_a_wrong_file_is_one_error_with_file_key_and_allowed_values(
    tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "my.toml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_option_out_of_range_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"engine\.threads = -1: it must be between 0 and 256"):
        load_config(None, {"engine": {"threads": -1}})


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the configuration .*no\.toml"):
        load_config(tmp_path / "no.toml")
    with pytest.raises(ConfigError, match=r"cannot read the configuration"):
        load_config(tmp_path)
    with (tmp_path / "huge.toml").open("wb") as file:
        file.truncate(2 << 20)
    with pytest.raises(ConfigError, match="larger than a configuration file"):
        load_config(tmp_path / "huge.toml")
