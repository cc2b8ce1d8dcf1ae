from __future__ import annotations

import socket

from duplex_asr.service.quick_send import send_now


def test_what_the_kernel_takes_is_sent_and_the_rest_is_the_callers() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert send_now(ours.fileno(), b"hello\0there") == 11
        assert theirs.recv(100) == b"hello\0there"
        data = bytes(range(256)) * 40_000
        num_taken = send_now(ours.fileno(), data)
        assert 0 < num_taken < len(data)
        assert send_now(ours.fileno(), b"x") == 0
        got = b""
        while len(got) < num_taken:
            got += theirs.recv(1 << 20)
        assert got == data[:num_taken]


def test_a_broken_connection_takes_nothing_and_raises_nothing() -> None:
    ours, theirs = socket.socketpair()
    theirs.close()
    assert send_now(ours.fileno(), b"x") == 0
    number = ours.fileno()
    ours.close()
    assert send_now(number, b"x") == 0
