"""The examples in docs/protocol.md are what the code reads and writes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest

from duplex_asr.audio.source_notices import NoticeKind
from duplex_asr.service import events, program_info, wyoming_wire
from duplex_asr.service.wyoming_wire import WyomingParser
from tests.service.test_events import read_back

PAGE = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text()
MESSAGES = re.findall(r'^(?:[<>] )?(\{"type": ".*data_length.*)$', PAGE, re.MULTILINE)
EVENTS = [
    line
    for block in re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    for line in block.replace(",\n ", ", ").splitlines()
]


@pytest.mark.parametrize("message", MESSAGES)
def test_a_message_on_the_page_has_the_right_lengths(message: str) -> None:
    data = message.replace("\\n", "\n").encode()
    data = re.sub(rb"<(\d+) bytes>$", lambda match: b"\0" * int(match[1]), data)
    parser = WyomingParser()
    assert len(list(parser.feed(data))) == 1
    assert not parser.is_mid_message


@pytest.mark.parametrize("line", EVENTS)
def test_an_event_on_the_page_is_an_event(line: str) -> None:
    event, seq = read_back(line)
    assert read_back(events.encode(event, seq)) == (event, seq)


def test_every_event_is_on_the_page() -> None:
    shown = {type(read_back(line)[0]) for line in EVENTS}
    described = {each for each in get_args(events.Event) if events.wire_type(each) in PAGE}
    assert described == set(get_args(events.Event))
    assert shown >= described - {events.UtteranceRejected}  # which is a transcript and a reason


def test_every_error_code_in_the_code_is_on_the_page() -> None:
    service = Path(events.__file__).parent
    joins = (
        "daemon.py", "source_recognition.py", "client_recognition.py", "playback_desk.py",
        "speaker_loop.py", "speech_output.py", "tts/playback.py",
    )  # fmt: skip
    sources = [*service.glob("*.py"), *(service.parent / name for name in joins)]
    text = "".join(path.read_text() for path in sources)
    callers = "Error|on_failure|_failure|send_error|give_up|tell_error|Refusal|fail"
    before = 'job, |"failed", |"lost", '
    codes = set(re.findall(rf'(?:{callers})\(\s*(?:{before})?"([a-z-]+)"', text))
    assert {"bad-length", "queue-full", "format-changed", "source-lost"} <= codes
    codes |= set(get_args(NoticeKind))  # two of which are states
    assert {code for code in codes if f"`{code}`" not in PAGE} == set()


def test_the_limits_on_the_page_are_those_of_the_code() -> None:
    kib = {
        name: getattr(wyoming_wire, name) // 1024 for name in dir(wyoming_wire) if "_BYTES" in name
    }
    assert kib == {"MAX_HEADER_BYTES": 64, "MAX_DATA_BYTES": 1024, "MAX_PAYLOAD_BYTES": 1024}
    assert program_info.PROGRAM_NAME == "duplex-asr"
    assert f"{events.MAX_LINE_BYTES // 1024} KiB" in PAGE
