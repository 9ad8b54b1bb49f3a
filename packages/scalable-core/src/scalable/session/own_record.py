"""The record of a session in plain Python or a notebook, which ``scalable run`` does not record."""

from __future__ import annotations

import atexit
import logging
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from scalable.runs import RunRecord
from scalable.runs.recorder import Recorder

if TYPE_CHECKING:
    from scalable.session.session import ScalableSession

__all__ = ["OwnRecord"]

logger = logging.getLogger("scalable.session")


class OwnRecord:
    """The record of a session, from its start to its end.

    Parameters
    ----------
    session : ScalableSession
        The session.
    record : RunRecord
        Its record.

    Attributes
    ----------
    recorder : Recorder
        Writes the record as the session goes.
    """

    def __init__(self, session: ScalableSession, record: RunRecord) -> None:
        self._session, self._process = session, os.getpid()
        self._ended = False
        self._started = time.monotonic()
        self.recorder = Recorder(session, record, logger.warning)
        self.recorder.start()
        # After the record has registered what closes its directory, so that this is called before.
        atexit.register(self._end_at_exit)

    @classmethod
    def begin(cls, session: ScalableSession) -> OwnRecord | None:
        """Begin the record of a session; without one, which is warned of, the session goes on."""
        main = getattr(sys.modules["__main__"], "__file__", None)
        workflow = Path(main) if main and Path(main).is_file() else None
        try:
            arguments = sys.argv[1:] if workflow else []
            record = RunRecord.begin(
                session, session.plan(), workflow=workflow, arguments=arguments
            )
        except OSError as error:
            logger.warning("no record is kept: %s: %s", error.filename, error.strerror)
            return None
        return cls(session, record)

    def _end_at_exit(self) -> None:
        """Write how the session of a script has ended that did not close it."""
        if self._process != os.getpid():  # a fork, whose end is not that of the session
            return
        is_script = self.recorder.record.document["workflow"]["path"] is not None
        # What nothing has caught, which Python has printed and kept.
        self.end(getattr(sys, "last_value", None) if is_script else None)

    def end(self, error: BaseException | None = None) -> None:
        """Write how the session has ended; once."""
        if self._ended:
            return
        self._ended = True
        recorder = self.recorder
        recorder.stop()
        recorder.write(warn=True)
        atexit.unregister(self._end_at_exit)
        try:
            recorder.record.end(
                _exit_status(error),
                everything_removed=self._session.everything_removed,
                error=None
                if error is None or not _exit_status(error)
                else "".join(traceback.format_exception_only(error)).strip(),
                events=self._session.events,
                summary=recorder.summary()
                | {"seconds": round(time.monotonic() - self._started, 3)},
            )
        except OSError as problem:
            logger.warning("the record is not complete: %s", problem)


def _exit_status(error: BaseException | None) -> int:
    """Return the exit status of a script that an error ends, as shells see it.

    Examples
    --------
    >>> [_exit_status(e) for e in (None, SystemExit(3), SystemExit("no"), KeyboardInterrupt(), OSError())]
    [0, 3, 1, 130, 1]
    """
    if isinstance(error, KeyboardInterrupt):
        return 128 + signal.SIGINT
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    return int(error is not None)
