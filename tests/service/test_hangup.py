from __future__ import annotations

import asyncio
import socket

from duplex_asr.service.hangup import HangupWatch
from tests.service_doubles import PATIENCE_S, run_without_leaks


def test_only_a_peer_that_closed_both_directions_is_gone() -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        watch = HangupWatch(loop)
        ours, theirs = socket.socketpair()
        gone = asyncio.Event()
        with ours:
            forget = watch.watch(ours.fileno(), gone.set)
            theirs.sendall(b"not read by anybody")
            theirs.shutdown(socket.SHUT_WR)
            marker_ours, marker_theirs = socket.socketpair()
            marked = asyncio.Event()
            watch.watch(marker_ours.fileno(), marked.set)
            marker_theirs.close()
            await asyncio.wait_for(marked.wait(), PATIENCE_S)
            assert not gone.is_set()
            theirs.close()
            await asyncio.wait_for(gone.wait(), PATIENCE_S)
            forget()
        marker_ours.close()
        watch.close()

    run_without_leaks(scenario)


def test_forgetting_late_does_not_end_the_watch_of_a_newer_connection() -> None:
    async def scenario() -> None:
        watch = HangupWatch(asyncio.get_running_loop())
        old, old_peer = socket.socketpair()
        number = old.fileno()
        forget_old = watch.watch(number, lambda: None)
        old.close()  # before it was forgotten: the number is free again
        new, new_peer = socket.socketpair()
        assert new.fileno() == number
        gone = asyncio.Event()
        watch.watch(new.fileno(), gone.set)
        forget_old()
        new_peer.close()
        await asyncio.wait_for(gone.wait(), PATIENCE_S)
        old_peer.close()
        new.close()
        watch.close()

    run_without_leaks(scenario)
