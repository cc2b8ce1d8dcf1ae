from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wyoming import asr, audio, error, info, ping
from wyoming.event import Event, async_read_event, async_write_event

from duplex_asr.service.program_info import RecognizerInfo, describe_program
from duplex_asr.service.wyoming_wire import (
    MAX_DATA_BYTES,
    MAX_HEADER_BYTES,
    MAX_PAYLOAD_BYTES,
    ProtocolError,
    WyomingParser,
    encode_event,
)


class CollectingWriter:
    """The part of asyncio.StreamWriter that `wyoming` writes to."""

    def __init__(self) -> None:
        self.data = b""

    def writelines(self, pieces: Any) -> None:
        self.data += b"".join(pieces)

    def write(self, piece: bytes) -> None:
        self.data += piece

    async def drain(self) -> None:
        pass


def written_by_wyoming(one: Event) -> bytes:
    writer = CollectingWriter()
    asyncio.run(async_write_event(one, writer))  # type: ignore[arg-type]
    return writer.data


def read_by_wyoming(data: bytes) -> Event | None:
    async def read() -> Event | None:
        reader = asyncio.StreamReader(limit=1 << 20)
        reader.feed_data(data)
        reader.feed_eof()
        return await async_read_event(reader)

    return asyncio.run(read())


def parse(data: bytes) -> list[Event]:
    return list(WyomingParser().feed(data))


SENT = [
    asr.Transcript(text="hello wörld").event(),
    Event("transcript", {"text": "", "language": "en"}),
    error.Error(text="boom", code="bad-header").event(),
    ping.Pong(text="x").event(),
    ping.Pong(text=None).event(),
    describe_program(RecognizerInfo("base.en", ("en",), "0.1.0")),
]
RECEIVED = [
    info.Describe().event(),
    ping.Ping(text="Ω").event(),
    asr.Transcribe(name="base.en", language="en").event(),
    asr.Transcribe().event(),
    audio.AudioStart(16000, 2, 1).event(),
    audio.AudioChunk(16000, 2, 1, b"\x01\x02\n{", timestamp=20).event(),
    audio.AudioChunk(16000, 2, 1, b"").event(),
    audio.AudioStop(timestamp=40).event(),
]


@pytest.mark.parametrize("one", SENT + RECEIVED, ids=lambda one: one.type)
def test_our_bytes_are_those_of_the_wyoming_package(one: Event) -> None:
    assert encode_event(one) == written_by_wyoming(one)


@pytest.mark.parametrize("one", SENT, ids=lambda one: one.type)
def test_the_wyoming_package_reads_what_we_send(one: Event) -> None:
    got = read_by_wyoming(encode_event(one))
    assert got is not None
    assert (got.type, got.data or {}, got.payload) == (one.type, one.data, one.payload)


@pytest.mark.parametrize("one", SENT + RECEIVED, ids=lambda one: one.type)
def test_we_read_what_the_wyoming_package_writes(one: Event) -> None:
    (got,) = parse(written_by_wyoming(one))
    assert (got.type, got.data) == (one.type, one.data)
    assert got.payload == (one.payload or None)


def test_the_info_is_complete_for_the_wyoming_package() -> None:
    sent = describe_program(RecognizerInfo("base.en", ("en",), "0.1.0"))
    got = info.Info.from_event(Event(sent.type, sent.data))
    (program,) = got.asr
    (model,) = program.models
    assert (program.name, program.installed, program.version) == ("duplex-asr", True, "0.1.0")
    assert (model.name, model.languages, model.installed) == ("base.en", ["en"], True)
    assert sent.data["asr"][0]["supports_transcript_streaming"] is True


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b'{"type": "a"}\n', {}),
        (b'{"type": "a", "data": {"x": 1}}\n', {"x": 1}),
        (b'{"type": "a", "data": null, "data_length": null, "payload_length": null}\n', {}),
        (b'{"type": "a", "data_length": 8}\n{"x": 2}', {"x": 2}),
        (b'{"type": "a", "data": {"x": 1, "y": 1}, "data_length": 8}\n{"x": 2}', {"x": 2, "y": 1}),
        (b'{"type": "a", "data_length": 0, "payload_length": 0}\r\n', {}),
        (b'{"type": "a", "data": {"timestamp": null}}\n', {"timestamp": None}),
        (b'{"type": "a", "colour": [1]}\n', {}),
    ],
)
def test_data_may_be_inline_or_behind_or_both(data: bytes, expected: dict[str, Any]) -> None:
    (got,) = parse(data)
    assert (got.type, got.data, got.payload) == ("a", expected, None)


BROKEN = {
    "empty line": (b"\n", "bad-header"),
    "not json": (b"hello\n", "bad-header"),
    "cut json": (b'{"type": "a"\n', "bad-header"),
    "no object": (b"[1, 2]\n", "bad-header"),
    "no type": (b'{"data": {}}\n', "bad-header"),
    "type is a number": (b'{"type": 5}\n', "bad-header"),
    "type is empty": (b'{"type": ""}\n', "bad-header"),
    "type is huge": (b'{"type": "' + b"a" * 1000 + b'"}\n', "bad-header"),
    "no utf-8": (b'{"type": "\xff"}\n', "bad-header"),
    "deep nesting": (b'{"type": ' + b"[" * 60_000 + b"\n", "bad-header"),
    "too many digits": (b'{"type": "a", "n": ' + b"1" * 60_000 + b"x}\n", "bad-header"),
    "inline data is a list": (b'{"type": "a", "data": []}\n', "bad-header"),
    "header without end": (b"x" * (MAX_HEADER_BYTES + 1), "header-too-long"),
    "header too long": (b" " * MAX_HEADER_BYTES + b'{"type": "a"}\n', "header-too-long"),
    "negative data": (b'{"type": "a", "data_length": -1}\n', "bad-length"),
    "fractional data": (b'{"type": "a", "data_length": 1.0}\n', "bad-length"),
    "textual data": (b'{"type": "a", "data_length": "1"}\n', "bad-length"),
    "boolean data": (b'{"type": "a", "data_length": true}\n', "bad-length"),
    "huge data": (b'{"type": "a", "data_length": %d}\n' % (MAX_DATA_BYTES + 1), "bad-length"),
    "negative payload": (b'{"type": "a", "payload_length": -5}\n', "bad-length"),
    "huge payload": (b'{"type": "a", "payload_length": 99999999999999}\n', "bad-length"),
    "payload is infinite": (b'{"type": "a", "payload_length": Infinity}\n', "bad-length"),
    "data is no json": (b'{"type": "a", "data_length": 3}\nabc', "bad-data"),
    "data is a list": (b'{"type": "a", "data_length": 2}\n[]', "bad-data"),
    "data is no utf-8": (b'{"type": "a", "data_length": 2}\n\xff\xff', "bad-data"),
    "data is deep": (b'{"type": "a", "data_length": 200000}\n' + b"[" * 200_000, "bad-data"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_bytes_give_one_error_with_its_code(name: str) -> None:
    data, code = BROKEN[name]
    parser = WyomingParser()
    with pytest.raises(ProtocolError) as caught:
        list(parser.feed(data))
    assert caught.value.code == code
    assert "\n" not in caught.value.text
    assert caught.value.text
    with pytest.raises(ProtocolError):  # the stream cannot be followed from here
        list(parser.feed(b'{"type": "ping"}\n'))


def test_events_before_a_broken_one_are_delivered() -> None:
    got = []
    with pytest.raises(ProtocolError):
        for one in WyomingParser().feed(b'{"type": "ping"}\n{"type": "describe"}\nrubbish\n'):
            got.append(one.type)
    assert got == ["ping", "describe"]


def test_the_largest_message_is_accepted() -> None:
    data = json.dumps({"x": "y" * (MAX_DATA_BYTES - len('{"x": ""}'))})
    (got,) = parse(encode_event(Event("a", json.loads(data), b"\0" * MAX_PAYLOAD_BYTES)))
    assert got.payload is not None
    assert len(got.payload) == MAX_PAYLOAD_BYTES
    header = b'{"type": "a"' + b" " * (MAX_HEADER_BYTES - 13) + b"}\n"
    assert [one.type for one in parse(header)] == ["a"]


def test_a_lone_surrogate_does_not_stop_the_reply() -> None:
    (got,) = parse(b'{"type": "ping", "data": {"text": "a\\ud800"}}\n')
    assert json.loads(encode_event(Event("pong", got.data)).splitlines()[1]) == {"text": "a?"}


def test_a_parser_knows_when_it_is_inside_a_message() -> None:
    parser = WyomingParser()
    assert not parser.is_mid_message
    list(parser.feed(b'{"type": "a", "payload_length": 2}'))
    assert parser.is_mid_message
    list(parser.feed(b"\n"))
    assert parser.is_mid_message
    assert len(list(parser.feed(b"ab"))) == 1
    assert not parser.is_mid_message


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=8,
)
messages = st.builds(
    Event,
    type=st.text(min_size=1, max_size=20),
    data=st.dictionaries(st.text(max_size=8), json_values, max_size=4),
    payload=st.none() | st.binary(min_size=1, max_size=64),
)


@settings(max_examples=60, deadline=None)
@given(sent=st.lists(messages, max_size=5), cuts=st.lists(st.integers(1, 97), max_size=20))
def test_messages_survive_any_cutting_into_pieces(sent: list[Event], cuts: list[int]) -> None:
    stream = b"".join(encode_event(one) for one in sent)
    parser = WyomingParser()
    got = []
    for cut in [*cuts, len(stream)]:
        got += list(parser.feed(stream[:cut]))
        stream = stream[cut:]
    assert [(one.type, one.data, one.payload) for one in got] == [
        (one.type, one.data, one.payload) for one in sent
    ]
    assert not parser.is_mid_message


def outcome(pieces: list[bytes]) -> tuple[list[Any], str | None]:
    parser = WyomingParser()
    got: list[Any] = []
    try:
        for piece in pieces:
            for one in parser.feed(piece):
                got.append((one.type, one.data, one.payload))
    except ProtocolError as problem:
        return got, problem.code
    return got, None


@settings(max_examples=150, deadline=None)
@given(
    data=st.binary(max_size=200)
    | st.lists(
        st.sampled_from(
            [b"{", b"}", b'"type"', b": ", b'"ping"', b"\n", b", ", b'"data_length"', b"2"]
            + [
                b'"payload_length"',
                b"-1",
                b"{}",
                b'{"type": "a"}\n',
                b"[",
                b"\xff",
                b"null",
                b"1e9",
            ]
        )
    ).map(b"".join),
    size=st.integers(1, 50),
)
def test_any_bytes_give_events_or_one_protocol_error(data: bytes, size: int) -> None:
    pieces = [data[offset : offset + size] for offset in range(0, len(data), size)]
    assert outcome(pieces) == outcome([data])
