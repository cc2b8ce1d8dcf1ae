"""Blocks of a recording process survive the pipe."""

from duplex_asr.audio.capture_wire import KINDS, CaptureBlock, decode_block, encode_block
from duplex_asr.audio.records import RecordReader


def test_blocks_come_out_as_they_went_in():
    blocks = [CaptureBlock(0, 0, 0.5, bytes(range(64))), CaptureBlock(2**40, 7, 1e6, b"")]
    data = b"".join(map(encode_block, blocks))
    assert [decode_block(*each) for each in RecordReader(KINDS).push(data)] == blocks
