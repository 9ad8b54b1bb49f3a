"""`AttachedSession`: the session of another process, as a client of it sees it."""

from __future__ import annotations

import html
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, overload

from scalable.errors import SessionError
from scalable.manifest.dotenv import environment_beside
from scalable.manifest.parser import parse_manifest
from scalable.session.control import ask, find_managed
from scalable.session.facts import State
from scalable.session.session import ScalableSession

if TYPE_CHECKING:
    from distributed import Future

    from scalable.client import ScalableClient
    from scalable.cluster.port import Explanation, GroupStatus
    from scalable.manifest.schema import ManifestModel
    from scalable.planning import Plan

__all__ = ["AttachedSession"]


class AttachedSession(ScalableSession):
    """The session of another process, which `scalable up` has started; from `ScalableSession.attach`.

    Closing it closes the client, and leaves the session of the other process as it is.

    Parameters
    ----------
    run : str or path, optional
        As for `ScalableSession.attach`.
    """

    def __init__(self, run: str | os.PathLike[str] | None = None) -> None:
        self._directory, record = find_managed(run)
        super().__init__(_recorded_manifest(record), target=record["target"])

    def start(self, plan: Plan | None = None) -> ScalableClient:
        """Connect to the session, and return the client.

        Raises
        ------
        SessionError
            The session has ended, or this Python has another version than that of the session.
        """
        if plan is not None:
            raise SessionError("an attached session runs already; leave out the plan")
        with self._lock:
            if not self.closed and self._handle is None:
                self._connect()
        return self.client

    def _connect(self) -> None:
        from distributed.security import Security
        from distributed.versions import get_versions

        from scalable.client import ScalableClient
        from scalable.cluster.plugin import describe_version_mismatch
        from scalable.providers.base import ClusterHandle

        answer = ask(self._directory, do="connect")
        environments = {"this process": get_versions(), f"run {self._directory.name}": answer}
        if differs := describe_version_mismatch(environments):
            raise SessionError(f"{differs}; attach to it with its versions")
        tls = answer.get("tls")
        security = Security(require_encryption=True, **tls) if tls else None

        def connect() -> ScalableClient:
            return ScalableClient(
                answer["address"],
                security=security,
                tasks=self.spec.components_by_task,
                direct_to_workers=answer["direct"],
            )

        modules = self._find_modules()
        self._results = self.open_results()
        backend: Any = None  # it is in the other process
        self._handle = ClusterHandle(backend, connect)
        self._mark_running()
        try:
            self.client.send_modules(modules)
        except BaseException:
            self.close()
            raise
        self._modules = modules

    async def start_async(self) -> NoReturn:
        """Raise SessionError: an attached session has no asynchronous client."""
        raise SessionError("an attached session has no asynchronous client; use start() or `with`")

    @property
    def cluster(self) -> NoReturn:
        """Raises SessionError: the cluster belongs to the other process."""
        raise SessionError(
            "the cluster of an attached session belongs to another process; "
            "groups, scale, adapt and explain of the session work from here"
        )

    @property
    def groups(self) -> Mapping[str, GroupStatus]:
        """The status of each worker group now, by tag."""
        from scalable.cluster.port import GroupStatus, Reason

        def status(fields: dict[str, Any]) -> GroupStatus:
            reason = fields["reason"] and Reason(fields["reason"])
            return GroupStatus(**{**fields, "reason": reason, "workers": tuple(fields["workers"])})

        answer = ask(self._directory, do="groups")["groups"]
        return {tag: status(fields) for tag, fields in answer.items()}

    @property
    def run_directory(self) -> Path:
        """The directory of the run's record."""
        return self._directory

    def scale(self, counts: Mapping[str, int]) -> None:
        """Set the desired number of workers of some groups, as `ScalableSession.scale`.

        Raises
        ------
        SessionError
            It is refused, or the session has ended.
        """
        from scalable.cluster.targets import checked_counts

        ask(self._directory, do="scale", workers=checked_counts(counts), ranges={})

    def adapt(self, ranges: Mapping[str, tuple[int, int]]) -> None:
        """Make some groups adaptive, as `ScalableSession.adapt`.

        Raises
        ------
        SessionError
            It is refused, or the session has ended.
        """
        from scalable.cluster.targets import checked_ranges

        ask(self._directory, do="scale", workers={}, ranges=checked_ranges(ranges))

    @overload
    def explain(self) -> dict[str, Explanation]: ...

    @overload
    def explain(self, future: Future[Any]) -> str: ...

    def explain(self, future: Future[Any] | None = None) -> dict[str, Explanation] | str:
        """Return why workers are missing, or why a task waits, as `ScalableSession.explain`."""
        from scalable.cluster.port import Explanation, Reason

        if future is not None:
            return super().explain(future)
        answer = ask(self._directory, do="explain")["groups"]
        return {
            tag: Explanation(**{**fields, "reason": Reason(fields["reason"])})
            for tag, fields in answer.items()
        }

    def close(self) -> None:
        """Close the client; the session of the other process goes on. Idempotent."""
        with self._lock:
            was_closed, self._state = self.closed, State.CLOSED
        if not was_closed and self._client is not None and self._process == os.getpid():
            self._client.close()

    def _body(self) -> str:
        from scalable.cluster.notebook import groups_table

        if self._handle is None or self.closed:
            return ""
        try:
            return groups_table(self.groups)
        except (OSError, SessionError) as error:
            return f"<p>{html.escape(str(error))}</p>"

    def __repr__(self) -> str:
        return f"<AttachedSession of run {self._directory.name} on {self.target!r}>"


def _recorded_manifest(record: Mapping[str, Any]) -> ManifestModel:
    """Return the manifest of a recorded run, with ``${VAR}`` expanded as the environment is now."""
    document, target = record["manifest"]["document"], record["target"]
    # Its overlay has been merged already.
    merged = {key: each for key, each in document["targets"][target].items() if key != "overlay"}
    path = record["manifest"]["path"]
    source = str(Path(record["directory"], path)) if path else None
    return parse_manifest(
        {**document, "targets": {target: merged}},
        env=environment_beside(source or ""),
        target_name=target,
        source=source,
    )
