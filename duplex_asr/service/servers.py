"""Every socket of the daemon with the server behind it, started and stopped together."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from duplex_asr.service.control_server import ControlServer
from duplex_asr.service.control_session import Recognizer
from duplex_asr.service.event_server import EventServer
from duplex_asr.service.hangup import HangupWatch
from duplex_asr.service.listening import HandedOver, open_sockets
from duplex_asr.service.metrics import prometheus_text
from duplex_asr.service.metrics_server import MetricsServer
from duplex_asr.service.peer import Peer
from duplex_asr.service.publisher import Publisher
from duplex_asr.service.runtime_dir import RuntimeDir, ServiceConfig
from duplex_asr.service.speech_session import Speech

logger = logging.getLogger(__name__)


class Servers:
    """Made and used in the event loop's thread.

    status: what the stages say of themselves; the answer to `status` adds what is known here.
    """

    def __init__(
        self,
        config: ServiceConfig,
        recognizer: Recognizer,
        speech: Speech,
        publisher: Publisher,
        status: Callable[[], dict[str, Any]],
    ) -> None:
        self._config = config
        self._publisher = publisher
        self._status = status
        self._hangups = HangupWatch(asyncio.get_running_loop())
        self._may_read: Callable[[Peer], bool] = lambda peer: False  # until there are sockets
        self.events = EventServer(config, self._hangups, publisher)
        self.control = ControlServer(
            config, self._hangups, recognizer, speech, publisher, self.status,
            lambda peer: self._may_read(peer),
        )  # fmt: skip
        self.metrics = MetricsServer(lambda: prometheus_text(self.status()))

    async def start(self, runtime_dir: RuntimeDir, handed_over: HandedOver) -> None:
        """Open what is not handed over and begin to serve; raises ServiceError, ConfigError."""
        sockets = open_sockets(runtime_dir, self._config, handed_over)
        self._may_read = sockets.may_read_events
        await self.events.start(sockets.events)
        await self.control.start(sockets.control)
        await self.metrics.start(sockets.metrics)
        logger.info("sockets are in %s", runtime_dir.path)

    async def stop_requests(self) -> None:
        """Take no more orders; events still leave."""
        await self.control.stop()

    async def stop(self, drain_s: float) -> None:
        """Close everything; the last events get `drain_s` seconds to leave."""
        await asyncio.gather(self.events.stop(drain_s), self.control.close(drain_s))
        self.metrics.stop()
        self._hangups.close()

    def turned_away(self) -> dict[str, int]:
        """How many clients and readers were."""
        return {
            "dropped_readers": self.events.num_dropped_readers,
            "refused_readers": self.events.num_refused_readers,
            "broken_readers": self.events.num_broken_readers,
            "dropped_clients": self.control.num_dropped_clients,
            "refused_clients": self.control.num_refused_clients,
            "broken_clients": self.control.num_broken_clients,
        }

    def status(self) -> dict[str, Any]:
        """The figures of docs/protocol.md, section "status"."""
        state, dropped = self._publisher.state, self._publisher.dropped()
        stages = self._status()
        drops = {
            **self.turned_away(),
            "dropped_partials": dropped.partials,
            "dropped_levels": dropped.levels,
            **stages.pop("drops", {}),
        }
        return {
            "run": self._publisher.run,
            "state": state.state,
            "reason": state.reason,
            **stages,
            "drops": drops,
            "clients": [*self.events.clients(), *self.control.clients()],
        }
