"""Records of a process with a sound device survive the pipe, however it cuts them."""

import pytest

from duplex_asr.audio.records import (
    HEADER,
    DeviceFailure,
    DeviceFormat,
    RecordReader,
    decode_failure,
    decode_format,
    encode_failure,
    encode_format,
    encode_record,
)

FORMAT = DeviceFormat("Mikrofon für Ärzte", 48_000, 2)


@pytest.mark.parametrize("size", [1, 3, 1_000])
def test_records_come_out_as_they_went_in_whatever_the_pieces(size):
    data = encode_format(FORMAT) + encode_record(b"B", bytes(range(64)))
    data += encode_record(b"B", b"") + encode_failure(DeviceFailure("'Mic \udcff' was lost"))
    reader = RecordReader(b"FEB")
    read = []
    for start in range(0, len(data), size):
        read += reader.push(data[start : start + size])
    assert [kind for kind, _ in read] == [b"F", b"B", b"B", b"E"]
    assert decode_format(read[0][1]) == FORMAT
    assert [payload for _, payload in read[1:3]] == [bytes(range(64)), b""]
    assert decode_failure(read[3][1]) == DeviceFailure("'Mic \\udcff' was lost")


@pytest.mark.parametrize("data", [b"Traceback", HEADER.pack(b"B", 1 << 21), HEADER.pack(b"Z", 1)])
def test_what_is_no_record_is_refused(data):
    with pytest.raises(ValueError, match="no record begins with"):
        list(RecordReader(b"FEB").push(data))
