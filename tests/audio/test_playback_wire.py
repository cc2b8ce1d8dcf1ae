"""Orders and reports of a playing process survive the pipe."""

import pytest

from duplex_asr.audio.playback_wire import (
    ORDER_KINDS,
    REPORT_KINDS,
    Beat,
    Flush,
    Gain,
    Play,
    Played,
    decode_order,
    decode_report,
    encode_order,
    encode_report,
)
from duplex_asr.audio.records import RecordReader

BEAT = Beat(2**40, 12_345.678, 3)


@pytest.mark.parametrize("order", [Play(7, b"\1\2\3\4"), Play(8, b""), Flush(2**40), Gain(0.25)])
def test_orders_come_out_as_they_went_in(order):
    (record,) = RecordReader(ORDER_KINDS).push(encode_order(order))
    assert decode_order(*record) == order


@pytest.mark.parametrize("report", [BEAT, Played(BEAT, 7, 2**33, True, b"\1\2")])
def test_reports_come_out_as_they_went_in(report):
    (record,) = RecordReader(REPORT_KINDS).push(encode_report(report))
    assert decode_report(*record) == report
