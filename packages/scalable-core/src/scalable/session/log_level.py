"""``SCALABLE_LOG_LEVEL``: how much Scalable logs on stderr."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from scalable.errors import SessionError

__all__ = ["VARIABLE", "log_level", "logging_as_asked"]

VARIABLE = "SCALABLE_LOG_LEVEL"

_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


def log_level(environ: Mapping[str, str]) -> str | None:
    """Return the level that the environment asks for; None where it asks for none.

    Raises
    ------
    SessionError
        There is no such level.

    Examples
    --------
    >>> log_level({"SCALABLE_LOG_LEVEL": "debug"}), log_level({})
    ('DEBUG', None)
    """
    asked = environ.get(VARIABLE, "").strip()
    if not asked:
        return None
    if asked.upper() not in _LEVELS:
        raise SessionError(f"{VARIABLE} is {asked!r}; use one of {', '.join(_LEVELS)}")
    return asked.upper()


@contextmanager
def logging_as_asked(level: str | None, redact: Callable[[str], str]) -> Iterator[None]:
    """Log what Scalable does on stderr, from a level on and without secrets, until the block is left.

    Parameters
    ----------
    level : str or None
        The level; None leaves all to Python's own configuration.
    redact : callable
        Returns a text without secrets.
    """
    if level is None:
        yield
        return
    logger, handler = logging.getLogger("scalable"), logging.StreamHandler()
    handler.setFormatter(_WithoutSecrets(redact))
    before = logger.level, logger.propagate
    logger.setLevel(level)
    logger.addHandler(handler)
    logger.propagate = False  # each line once
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.propagate = before[1]


class _WithoutSecrets(logging.Formatter):
    def __init__(self, redact: Callable[[str], str]) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")
        self._redact = redact

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as text, without secrets."""
        return self._redact(super().format(record))
