"""How a session ends: its client, then its cluster; what signals do meanwhile, and how leftovers are reported."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING, NoReturn, Self

from scalable.errors import LeftoverError, ScalableError
from scalable.providers.logs import tidy_logs
from scalable.session import signals
from scalable.session.facts import SessionFacts, State

if TYPE_CHECKING:
    from scalable.providers.base import ClusterHandle, DeploymentSpec
    from scalable.session.own_record import OwnRecord

__all__ = ["ClosingSession"]

_open_sessions: list[ClosingSession] = []
"""The sessions that are started and not closed, oldest first; in a fork, also those of its parent."""


class ClosingSession(SessionFacts):
    """A session that is closed once, by whatever ends it.

    Parameters
    ----------
    spec : DeploymentSpec
        The manifest and its target.
    """

    def __init__(self, spec: DeploymentSpec) -> None:
        super().__init__(spec)
        # Reentrant, because a signal handler of the user's may close the session while this thread holds the lock.
        self._lock = threading.RLock()
        self._process = os.getpid()
        self._signals_before_close = 0
        self._own_record: OwnRecord | None = None
        self._shown = ExitStack()

    @classmethod
    def open_sessions(cls) -> list[Self]:
        """Return the sessions of this process that are started and not closed, oldest first."""
        return [
            session
            for session in _open_sessions
            if isinstance(session, cls) and session._process == os.getpid()
        ]

    def _mark_open(self) -> None:
        """Record that there is something to close."""
        _open_sessions.append(self)

    def note_signals(self, received: int) -> None:
        """Set how many signals had asked for the end before `close` was called; the next ones make it hurry."""
        self._signals_before_close = received

    def close(self) -> None:
        """Close the client and remove the cluster with everything that belongs to it.

        Idempotent, and bounded in time. Ctrl-C, SIGTERM and SIGHUP are deferred until it is done; a second Ctrl-C or
        SIGTERM lets it hurry, and a third one ends the process. In a fork of the process that created the session,
        the cluster stays as it is.

        Raises
        ------
        LeftoverError
            Something could not be removed; the error names it.
        """
        if sys.is_finalizing():
            return  # from a generator that was never finished: its cluster was closed before, and little works any more
        # The first one has come already, if it is what closes the session.
        first = sys.exc_info()[0] in (KeyboardInterrupt, SystemExit)
        received = max(self._signals_before_close, int(first))

        def hurry(number: int) -> None:
            nonlocal received
            received += number != signal.SIGHUP
            if received == 2:
                self._say("closing in a hurry; once more ends this process at once")
                if self._handle is not None:
                    getattr(getattr(self._handle, "backend", None), "hurry", lambda: None)()
            elif received > 2:
                self._end_process(number)

        try:
            with signals.deferred_signals(hurry):
                self._close()
        finally:
            if self._own_record is not None and self._process == os.getpid():
                self._own_record.end(sys.exc_info()[1])
            signals.unregister(self.close)

    def _end_process(self, number: int) -> NoReturn:
        """End the process at once, saying what may be left."""
        name = getattr(getattr(self._handle, "backend", None), "name", "")
        if name:
            remedy = f"; remove it with: {command}" if (command := self._reap_command()) else ""
            self._say(
                f"cluster {name!r} was not closed, and what belongs to it may be left{remedy}"
            )
        os._exit(128 + number)

    def _say(self, text: str) -> None:
        if sys.stderr is not None:  # print() would write to stdout
            print(f"scalable: {self.manifest.redact(text)}", file=sys.stderr, flush=True)

    def _reap_command(self) -> str:
        """Return the command that removes what a close has left; empty if the provider cannot."""
        from scalable.providers.base import Reaps

        if not isinstance(self.provider, Reaps) or self._manifest_path is None:
            return ""
        where = ["--manifest", str(self._manifest_path), "--target", self.target]
        return shlex.join(["scalable", "reap", *where])

    def _close(self) -> None:
        if self.recorder is not None and self._process == os.getpid():
            self.recorder.note_tasks()
        with self._lock:
            if self.closed:
                return
            self._state = State.CLOSED
            if self in _open_sessions:
                _open_sessions.remove(self)
        if self._process != os.getpid():
            return
        self._shown.close()
        try:
            if self._client is not None:
                self._client.close()
        finally:
            if self._handle is not None:
                self._remove_cluster(self._handle)
            self._everything_removed = True

    def _remove_cluster(self, handle: ClusterHandle) -> None:
        """Remove the cluster, and complete the logs of its workers; an error names the command for what is left."""
        try:
            self.provider.close(handle)
        except LeftoverError as error:
            self._leftover_error = error
            if error.command or not (command := self._reap_command()):
                raise
            self._leftover_error = LeftoverError(error.cluster, error.leftovers, command)
            raise self._leftover_error from None
        finally:
            if self.run_directory is not None:
                tidy_logs(self.run_directory / "logs", self.manifest.redact)

    def _close_after(self, error: BaseException) -> list[str]:
        """Close because of an error; a problem while closing becomes notes of that error, which are returned."""
        try:
            self.close()
        except ScalableError as close_error:
            notes = [str(close_error), *getattr(close_error, "__notes__", ())]
            for note in notes:
                error.add_note(note)
            return notes
        return []
