"""Records of a recording process survive the pipe, however it cuts them."""

import pytest

from duplex_asr.audio.capture_wire import (
    HEADER,
    CaptureBlock,
    CaptureFailure,
    CaptureFormat,
    RecordReader,
    encode,
)

RECORDS = [
    CaptureFormat("Mikrofon für Ärzte", 48_000, 2),
    CaptureBlock(0, 0, bytes(range(64))),
    CaptureBlock(2**40, 7, b""),
    CaptureFailure("microphone 'Mic \udcff' was lost"),
]


@pytest.mark.parametrize("size", [1, 3, 1_000])
def test_records_come_out_as_they_went_in_whatever_the_pieces(size):
    data = b"".join(encode(each) for each in RECORDS)
    reader = RecordReader()
    read = []
    for start in range(0, len(data), size):
        read += reader.push(data[start : start + size])
    assert read[:3] == RECORDS[:3]
    assert read[3] == CaptureFailure("microphone 'Mic \\udcff' was lost")


@pytest.mark.parametrize("data", [b"Traceback", HEADER.pack(b"B", 1 << 21)])
def test_what_is_no_record_is_refused(data):
    with pytest.raises(ValueError, match="no record begins with"):
        list(RecordReader().push(data))
