"""Where a node's log goes: to the terminal, or to files of a bounded size."""

from __future__ import annotations

import logging
import os
from logging.handlers import RotatingFileHandler
from pathlib import Path

from swarm.errors import ConfigurationError
from swarm.node.home.config import Log
from swarm.visible import JsonFormatter, VisibleFormatter

MEGABYTE = 2**20


def open_log(directory: Path, settings: Log) -> Path | None:
    """Have all that is logged from now on go where `settings` say; the file, if it is one.

    Raises ConfigurationError if that cannot be written.
    """
    path = None if settings.file is None else directory / settings.file
    handler: logging.Handler
    if path is None:
        handler = logging.StreamHandler()
    else:
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
        except OSError as error:
            raise ConfigurationError(
                f"{directory / 'node.toml'}: `log.file` is {path}, which cannot be written: "
                f"{error.strerror}"
            ) from None
        handler = RotatingFileHandler(
            path,
            maxBytes=settings.max_mb * MEGABYTE,
            backupCount=settings.keep,
            encoding="utf-8",
        )
    handler.setFormatter(JsonFormatter() if settings.format == "json" else VisibleFormatter())
    logging.basicConfig(level=settings.level.upper(), handlers=[handler], force=True)
    return path
