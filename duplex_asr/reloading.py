"""SIGHUP in, the configuration read once more: what can change does, what cannot is named."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from duplex_asr.config import Config
from duplex_asr.errors import ConfigError
from duplex_asr.live_settings import compare
from duplex_asr.service.supervision import Supervision

logger = logging.getLogger(__name__)

LoadConfig = Callable[[], Config]


class Reloading:
    """The configuration of one run; for the event loop's thread.

    path: the file that it was read from, None if there is none. load: reads it with the options of
    the command line over it; raises ConfigError. apply: gives a changed one to the stages.
    config: what holds now.
    """

    def __init__(
        self, config: Config, path: Path | None, load: LoadConfig, supervision: Supervision
    ) -> None:
        self.config = config
        self._path = path
        self._load = load
        self._supervision = supervision

    def reload(self, apply: Callable[[Config], None]) -> None:
        """Read the file again; one that cannot be used changes nothing."""
        self._supervision.reloading()
        result = "The configuration could not be applied"
        try:
            result = self._reload(apply)
        finally:  # or the service manager would wait for the end of the reload
            self._supervision.reloaded(result)

    def _reload(self, apply: Callable[[Config], None]) -> str:
        if self._path is None:
            logger.info("nothing to reload: the daemon was started without --config")
            return "Nothing to reload: started without --config"
        try:
            if self._path.exists() and not self._path.is_file():  # reading a pipe might never end
                raise ConfigError(f"{self._path} is no file that can be read twice")
            change = compare(self.config, self._load())
        except (ConfigError, OSError, ValueError) as error:
            logger.error("the configuration was not reloaded, the old one holds: %s", error)
            return f"The old configuration holds: {error}"
        self.config = change.config
        apply(change.config)
        logger.info("the configuration was reloaded: %s", change)
        return f"Reloaded: {change}"
