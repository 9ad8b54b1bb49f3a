"""`SessionFacts`: what a session tells of itself, before, while and after it has a cluster."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import Enum, auto
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalable.providers.registry import get_provider

if TYPE_CHECKING:
    from scalable.client import ScalableClient, TaskFailure
    from scalable.cluster import Event
    from scalable.cluster.events import EventLog
    from scalable.cluster.history import WorkerSpan
    from scalable.cluster.port import GroupStatus
    from scalable.errors import LeftoverError
    from scalable.manifest.schema import ManifestModel
    from scalable.providers.base import ClusterHandle, DeploymentProvider, DeploymentSpec
    from scalable.results.reuse import Results
    from scalable.runs.recorder import Recorder

__all__ = ["SessionFacts", "State"]


class State(Enum):
    """Where a session is in its life."""

    NEW = auto()
    STARTING = auto()
    RUNNING = auto()
    CLOSED = auto()


class SessionFacts:
    """What can be asked of a session at any time, from any thread; nothing here changes its cluster.

    Parameters
    ----------
    spec : DeploymentSpec
        The manifest and its target.
    """

    def __init__(self, spec: DeploymentSpec) -> None:
        self.spec = spec
        # Resolved now, because a workflow may change the current directory.
        self._manifest_path = Path(spec.manifest.source).resolve() if spec.manifest.source else None
        self.recorder: Recorder | None = None
        self._state = State.NEW
        self._handle: ClusterHandle | None = None
        self._client: ScalableClient | None = None
        self._results: Results | None = None
        self._failures: dict[Any, TaskFailure] = {}
        self._start_error: BaseException | None = None
        self._everything_removed = False
        self._leftover_error: LeftoverError | None = None

    @property
    def manifest(self) -> ManifestModel:
        """The manifest, with the target's overlay merged."""
        return self.spec.manifest

    @property
    def target(self) -> str:
        """The target's name."""
        return self.spec.target_name

    @property
    def target_name(self) -> str:
        """The target's name, as earlier versions called it."""
        return self.target

    @cached_property
    def provider(self) -> DeploymentProvider:
        """The target's provider, the same object for the whole session.

        Raises
        ------
        ProviderError
            The provider is not installed, or cannot be used.
        """
        return get_provider(self.spec.provider_name)

    @cached_property
    def _log(self) -> EventLog:
        from scalable.cluster.events import EventLog

        return EventLog()

    @property
    def closed(self) -> bool:
        """Whether the session is closed or closing."""
        return self._state is State.CLOSED

    @property
    def run_directory(self) -> Path | None:
        """The directory of the run's record, with the logs of workers; None if there is no record."""
        return None if self.recorder is None else self.recorder.record.directory.absolute()

    @property
    def is_new(self) -> bool:
        """Whether the start has not begun."""
        return self._state is State.NEW

    @property
    def leftover_error(self) -> LeftoverError | None:
        """What `close` has raised because it could not remove something; None if it has not."""
        return self._leftover_error

    @property
    def start_error(self) -> BaseException | None:
        """The error that ended the start, if one did."""
        return self._start_error

    @property
    def everything_removed(self) -> bool:
        """Whether the session is closed, and nothing that it had started is left."""
        return self._everything_removed

    @property
    def groups(self) -> Mapping[str, GroupStatus]:
        """The status of each worker group, by tag; empty if there is no cluster."""
        return self._handle.backend.groups if self._handle else {}

    @property
    def events(self) -> Sequence[Event]:
        """What happened so far, from the start of the scheduler on, oldest first; kept after the session is closed."""
        return tuple(self._log)

    @property
    def worker_hours(self) -> Mapping[str, float]:
        """How many hours the workers of each group have had machines, together; kept after the session is closed."""
        return dict(getattr(getattr(self._handle, "backend", None), "worker_hours", {}))

    @property
    def usage(self) -> Mapping[str, Any]:
        """The cost so far, the limits, which one was reached, and what followed; kept after the session is closed."""
        return dict(getattr(getattr(self._handle, "backend", None), "usage", {}))

    def take_worker_changes(self) -> list[WorkerSpan]:
        """Return the workers that have changed since the last call: for the record of the run."""
        cluster = getattr(self._handle, "backend", None)
        take: Callable[[], list[WorkerSpan]] = getattr(cluster, "take_worker_changes", list)
        return take()

    def describe_result(self, name: str) -> Mapping[str, Any]:
        """Return what a result is computed from, by its name, as far as the store of results knows."""
        return {} if self._results is None else self._results.describe(name)

    @property
    def failures(self) -> Mapping[Any, TaskFailure]:
        """The tasks that the workflow has gathered with ``errors="collect"`` and that have failed, by key."""
        return self._failures | dict(self._client.failures if self._client else {})

    @property
    def kept(self) -> Mapping[str, tuple[int, int]]:
        """How many calls so far had a kept result, and how many had none, by task whose results are kept."""
        return {} if self._results is None else dict(self._results.counts)

    @property
    def kept_calls(self) -> Mapping[str, tuple[str | None, int]]:
        """The component of calls, and how many of them had a kept result, by the name of the function in keys."""
        return {} if self._results is None else dict(self._results.kept_calls)

    def __repr__(self) -> str:
        return f"<ScalableSession on {self.target!r}, {self._state.name.lower()}>"
