"""Folders and lists become recordings; what is wrong with a list is named, and the rest stays."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from duplex_asr.errors import AudioError, ConfigError
from duplex_asr.evaluation.dataset import Dataset, open_dataset
from duplex_asr.evaluation.manifest_file import MAX_LINE_CHARS
from tests.evaluation.conftest import write_manifest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Empty files: a list is read without opening what it lists."""
    for name in ("a.flac", "b.flac", "digits/one.flac", "noise/tap.flac", "orders/latte.flac"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def texts(dataset: Dataset) -> dict[str, str | None]:
    return {each.name: each.text for each in dataset.recordings}


def problems(dataset: Dataset) -> str:
    return "; ".join(map(str, dataset.problems))


ALL = [
    {"path": "a.flac", "text": "one"},
    {"path": "./digits/one.flac", "text": "one"},
    {"path": "noise/tap.flac", "text": None},
    {"path": "orders/latte.flac", "text": None},
]


@pytest.mark.parametrize("as_file", [True, False])
def test_a_manifest_is_found_by_its_folder_or_its_own_name(folder: Path, as_file: bool) -> None:
    manifest = write_manifest(folder / "manifest.jsonl", ALL)
    dataset = open_dataset(manifest if as_file else folder)
    assert texts(dataset) == {
        "a.flac": "one", "digits/one.flac": "one", "noise/tap.flac": "", "orders/latte.flac": None,
    }  # fmt: skip
    assert not dataset.problems
    assert dataset.recordings[1].path.is_file()


def test_a_folder_below_a_manifest_is_the_part_of_it_that_lies_there(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_manifest(folder / "manifest.jsonl", ALL)
    assert texts(open_dataset(folder / "digits")) == {"digits/one.flac": "one"}
    assert open_dataset(folder / "digits").name == "digits"
    monkeypatch.chdir(folder / "noise")
    assert texts(open_dataset(Path("."))) == {"noise/tap.flac": ""}


def test_an_unknown_text_is_no_speech_in_folders_of_noise_or_if_it_is_said_so(folder: Path) -> None:
    write_manifest(folder / "manifest.jsonl", ALL)
    assert texts(open_dataset(folder / "orders")) == {"orders/latte.flac": None}
    dataset = open_dataset(folder / "orders", is_non_speech=True)
    assert texts(dataset) == {"orders/latte.flac": ""}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("list.csv", 'path,text\na.flac,"one, two"\nb.flac,\n'),
        ("list.tsv", 'client_id\tpath\tsentence\nx\ta.flac\tone, two\nx\tb.flac\t""\n'),
        ("list.json", '{"audio_filepath": "a.flac", "text": "one, two", "duration": 1}\n'),
    ],
)
def test_tables_and_the_keys_of_others_are_read(folder: Path, name: str, content: str) -> None:
    (folder / name).write_text(content, encoding="utf-8")
    found = texts(open_dataset(folder / name))
    assert found["a.flac"] == "one, two"
    assert found.get("b.flac") == {"list.csv": "", "list.tsv": '""'}.get(name)


def test_recordings_that_moved_are_found_by_their_names(folder: Path) -> None:
    rows = [{"audio_filepath": "/home/somebody/wavs/one.flac", "text": "one"}]
    (folder / "lists").mkdir()
    manifest = write_manifest(folder / "lists" / "tarred_audio_manifest.json", rows)
    assert texts(open_dataset(manifest, recordings_dir=folder / "digits")) == {
        "/home/somebody/wavs/one.flac": "one"
    }
    with pytest.raises(AudioError, match="outside of the manifest's folder"):
        open_dataset(manifest)


def test_each_bad_row_is_named_and_the_others_stay(folder: Path) -> None:
    (folder / "manifest.jsonl").write_text(
        "\n".join(
            [
                '{"path": "a.flac", "text": "one"}',
                "not json",
                "[1]",
                '{"text": "no path"}',
                '{"path": "b.flac"}',
                '{"path": "b.flac", "text": 7}',
                '{"path": "gone.flac", "text": "two"}',
                '{"path": "../a.flac", "text": "two"}',
                '{"path": "/etc/passwd", "text": "two"}',
                '{"path": "nul\\u0000.flac", "text": "two"}',
                '{"path": "a.flac", "text": "another"}',
                "",
            ]
        )
    )
    dataset = open_dataset(folder)
    assert texts(dataset) == {"a.flac": "one"}
    said = problems(dataset)
    assert len(dataset.problems) == 10
    for words in (
        "line 2 is no row", "line 3 is no row", "line 4 names no recording", "b.flac has no 'text'",
        "line 6 that is no text", "gone.flac is listed and there is no such file",
        "../a.flac is outside", "/etc/passwd is outside", "line 10 names no recording",
        "a.flac is listed twice",
    ):  # fmt: skip
        assert words in said


def test_a_name_that_is_no_utf8_is_a_name(folder: Path) -> None:
    name = os.fsdecode(b"caf\xe9.flac")
    (folder / name).touch()
    for row in (json.dumps({"path": name, "text": "one"}).encode(),
                b'{"path": "caf\xe9.flac", "text": "one"}'):  # fmt: skip
        (folder / "manifest.jsonl").write_bytes(row + b"\n")
        dataset = open_dataset(folder)
        assert texts(dataset) == {name: "one"} and dataset.recordings[0].path.is_file()


def test_librispeech_is_read_as_it_is_unpacked(tmp_path: Path) -> None:
    chapter = tmp_path / "test-clean" / "61" / "70968"
    chapter.mkdir(parents=True)
    for name in ("61-70968-0000", "61-70968-0001", "61-70968-0009"):
        (chapter / f"{name}.flac").touch()
    (chapter / "61-70968.trans.txt").write_text(
        "61-70968-0000 HE BEGAN A CONFUSED COMPLAINT\n"
        "61-70968-0001\n"
        "61-70968-0002 GIVE NOT SO EARNEST A MIND\n"
        "../x ESCAPED\n"
    )
    dataset = open_dataset(tmp_path / "test-clean")
    assert dataset.name == "test-clean"
    assert texts(dataset) == {"61/70968/61-70968-0000.flac": "HE BEGAN A CONFUSED COMPLAINT"}
    said = problems(dataset)
    for words in ("0001 has no text", "0002 is listed in", "../x has no text", "0009.flac has no"):
        assert words in said
    assert len(dataset.problems) == 4


def test_what_is_no_data_set_is_refused_with_what_one_is(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no data set .*: name a folder"):
        open_dataset(folder / "nowhere")
    with pytest.raises(ConfigError, match=r"neither manifest.jsonl.* nor LibriSpeech"):
        open_dataset(folder / "orders")
    with pytest.raises(ConfigError, match=r"name ends with .jsonl"):
        open_dataset(folder / "a.flac")
    (folder / "manifest.jsonl").write_text("")
    with pytest.raises(AudioError, match="no recording of .* can be used"):
        open_dataset(folder)
    (folder / "manifest.jsonl").write_text("x" * (MAX_LINE_CHARS + 1))
    with pytest.raises(ConfigError, match="line 1 is longer"):
        open_dataset(folder)


def test_a_limit_takes_recordings_from_all_of_it(folder: Path) -> None:
    write_manifest(folder / "manifest.jsonl", ALL)
    dataset = open_dataset(folder)
    assert list(texts(dataset.spread(2))) == ["a.flac", "noise/tap.flac"]
    assert dataset.spread(4) is dataset and len(dataset.spread(9).recordings) == 4
