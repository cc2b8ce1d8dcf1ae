"""The ring of saved utterances: within its cap, over restarts, never on files of others."""

import json
import resource
from pathlib import Path

import numpy as np
import pytest
import soundfile

from duplex_asr.debugging.saved_utterances import SavedUtterances

RANDOM = np.random.default_rng(1)
SECOND = RANDOM.uniform(-1, 1, 16_000).astype(np.float32)  # 32 kB: noise does not compress
EVENT = {"type": "transcript", "id": "u1", "text": "schöner \udcff Tag"}


def used(folder: Path) -> int:
    """What the files take, in blocks, as `du` counts it."""
    return sum(-(-path.stat().st_size // 4_096) * 4_096 for path in folder.iterdir())


def lines(folder: Path) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


@pytest.fixture
def ring(tmp_path):
    ring = SavedUtterances(tmp_path / "ring", max_mb=1)
    yield ring
    ring.close()


def test_sound_and_event_come_back(ring):
    assert ring.save(SECOND, EVENT) is None
    samples, rate = soundfile.read(ring.folder / "utterance-00000001.flac", dtype="float32")
    assert rate == 16_000
    assert np.abs(samples - SECOND).max() < 1 / 30_000
    (line,) = lines(ring.folder)
    assert (line["text"], line["id"]) == (EVENT["text"], "u1")
    assert line["file"] == "utterance-00000001.flac"
    assert line["written_at"].endswith("+00:00")


def test_only_the_owner_can_read_what_people_said(ring):
    ring.save(SECOND, EVENT)
    for path in (ring.folder, *ring.folder.iterdir()):
        assert path.stat().st_mode & 0o077 == 0, path


def test_the_oldest_go_before_the_cap_is_passed(ring):
    for number in range(60):
        assert ring.save(SECOND, EVENT | {"id": f"u{number}"}) is None
        assert used(ring.folder) <= 1_000_000
        assert ring.num_bytes == used(ring.folder)
    kept = [int(line["id"][1:]) for line in lines(ring.folder)]
    assert kept == list(range(60 - len(kept), 60))
    assert len(kept) > 20
    assert len(list(ring.folder.glob("*.flac"))) == len(kept)


def test_the_ring_goes_on_after_a_restart(ring):
    for number in range(20):
        ring.save(SECOND, EVENT | {"id": f"u{number}"})
    ring.close()
    again = SavedUtterances(ring.folder, max_mb=1)
    for number in range(20, 40):
        assert again.save(SECOND, EVENT | {"id": f"u{number}"}) is None
        assert used(ring.folder) <= 1_000_000
    again.close()
    assert lines(ring.folder)[-1]["file"] == "utterance-00000040.flac"
    assert lines(ring.folder)[0]["id"] != "u0"


def test_a_lower_cap_after_a_restart_is_kept(tmp_path):
    first = SavedUtterances(tmp_path, max_mb=2)
    for _ in range(45):
        first.save(SECOND, EVENT)
    first.close()
    assert used(tmp_path) > 1_000_000
    second = SavedUtterances(tmp_path, max_mb=1)
    second.save(SECOND, EVENT)
    second.close()
    assert used(tmp_path) <= 1_000_000


def test_files_of_others_are_never_touched(tmp_path):
    foreign = {
        "notes.txt": b"mine",
        "utterance-00000001.json": b'{"file": "utterance-00000001.flac"}',  # not our mark
        "utterance-00000001.flac": b"my flac",
        "utterance-00000002.json": b"not even JSON",
        "utterance-00000007.flac": b"no line beside it",
        "utterance-1.json": b"{}",
    }
    for name, content in foreign.items():
        (tmp_path / name).write_bytes(content)
    ring = SavedUtterances(tmp_path, max_mb=1)
    for _ in range(60):
        assert ring.save(SECOND, EVENT) is None
    ring.close()
    assert {name: (tmp_path / name).read_bytes() for name in foreign} == foreign
    assert not (tmp_path / "utterance-00000003.json").exists()  # numbers begin after all of them


def test_what_a_crash_left_half_written_is_removed_at_the_next_start(ring):
    for _ in range(3):
        ring.save(SECOND, EVENT)
    ring.close()
    (ring.folder / "utterance-00000002.flac").write_bytes(b"half")
    (ring.folder / "utterance-00000003.flac").unlink()
    again = SavedUtterances(ring.folder, max_mb=1)
    again.save(SECOND, EVENT)
    again.close()
    assert sorted(path.name for path in ring.folder.iterdir()) == [
        f"utterance-0000000{number}.{kind}" for number in (1, 4) for kind in ("flac", "json")
    ]


def test_a_disk_that_takes_no_more_is_said_leaves_nothing_behind_and_passes(ring):
    ring.save(SECOND, EVENT)
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, unlimited[1]))  # the sound is larger
    try:
        reason = ring.save(SECOND, EVENT)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    assert reason == f"{ring.folder}: File too large; make room, or see its permissions"
    assert ring.save(SECOND, EVENT) is None
    assert (ring.num_saved, ring.num_failed) == (2, 1)
    assert len(lines(ring.folder)) == 2 == len(list(ring.folder.glob("*.flac")))


def test_a_folder_that_cannot_be_made_is_said(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    ring = SavedUtterances(tmp_path / "file" / "ring", max_mb=1)
    assert "Not a directory" in ring.save(SECOND, EVENT)


def test_a_second_daemon_does_not_share_the_ring(ring):
    ring.save(SECOND, EVENT)
    second = SavedUtterances(ring.folder, max_mb=1)
    assert "another daemon saves its utterances there" in second.save(SECOND, EVENT)
    ring.close()
    assert second.save(SECOND, EVENT) is None
    second.close()


def test_an_utterance_larger_than_the_cap_is_refused_and_removes_nothing(ring):
    ring.save(SECOND, EVENT)
    long = np.resize(SECOND, 16_000 * 30) + RANDOM.uniform(-0.5, 0.5, 480_000).astype(np.float32)
    ring.save(long, EVENT)
    noise = RANDOM.uniform(-1, 1, 16_000 * 40).astype(np.float32)
    assert "save_utterances_max_mb is less" in ring.save(noise, EVENT)
    assert lines(ring.folder)
