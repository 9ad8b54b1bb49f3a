"""`ScalableSession`: from a manifest to a client, and everything removed again."""

from __future__ import annotations

import logging
import os
import time
import warnings
from collections.abc import Generator, Mapping
from dataclasses import fields
from functools import cached_property, partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, overload

from scalable.errors import (
    IncompleteClusterError,
    ManifestSchemaError,
    ProviderError,
    SessionError,
    UnknownProviderError,
    ValidationFailedError,
)
from scalable.manifest.parser import load_manifest
from scalable.manifest.storage import checked_outputs, results_url
from scalable.manifest.validate import ValidationReport, validate_manifest
from scalable.modules import UserModules, upload_modules, workflow_directory
from scalable.providers.base import DeploymentSpec, ScalePlan
from scalable.providers.common import check_options
from scalable.providers.logs import keep_logs_in
from scalable.session import signals
from scalable.session.building import check_cluster, naming_configuration
from scalable.session.current import current_session
from scalable.session.facts import State
from scalable.session.log_level import log_level, logging_as_asked
from scalable.session.scaling import changed_plan
from scalable.session.shown import as_html, live_html, shows_progress_on_stderr
from scalable.session.target import AUTO, choose_target
from scalable.session.teardown import ClosingSession

if TYPE_CHECKING:
    from distributed import Future

    from scalable.client import ScalableClient
    from scalable.cluster import GroupedCluster
    from scalable.cluster.budget import Budget
    from scalable.cluster.port import Explanation
    from scalable.manifest.schema import ManifestModel
    from scalable.planning import Plan
    from scalable.providers.base import ClusterHandle
    from scalable.results.reuse import OnCalls, OutputChecks, Results
    from scalable.session.attached import AttachedSession

__all__ = ["DEFAULT_MANIFEST", "ScalableSession"]

logger = logging.getLogger("scalable.session")

DEFAULT_MANIFEST = "scalable.yaml"
"""The manifest that is read if neither the caller nor ``SCALABLE_MANIFEST`` names one."""


class ScalableSession(ClosingSession):
    """One target of one manifest, from validation to the removal of its cluster.

    A context manager that starts the session and returns its client; leaving it closes the session. While a session
    is open, SIGTERM and SIGHUP close it before they end the process.

    Parameters
    ----------
    manifest : ManifestModel
        From `load_manifest` with the same target, so that its overlay is merged.
    target : str
        The target's name.
    workflow : Path, optional
        The directory whose modules workers need; by default that of the running script, or the current one in a
        notebook. ``project.modules`` in the manifest takes precedence.
    progress : bool, optional
        Whether to show what runs and what waits, until the session is closed: in the cell of a notebook, elsewhere on
        stderr; by default, in a notebook, and if a script runs on a terminal. ``scalable run`` shows it in any case.

    Attributes
    ----------
    recorder : Recorder or None
        Writes the record of the run. ``scalable run`` sets it before the start; otherwise the start makes one.
    on_calls : callable or None
        Called for calls whose results are kept, as `Results.on_calls`; set before the start.

    Raises
    ------
    UnknownTargetError
        The manifest has no such target.

    Examples
    --------
    Step by step, where a ``with`` block is not enough::

        session = ScalableSession.from_yaml("scalable.yaml", target="hpc")
        print(session.plan())
        client = session.start()
        session.scale({"gcam": 8})
        session.close()
    """

    def __init__(
        self,
        manifest: ManifestModel,
        *,
        target: str,
        workflow: Path | None = None,
        progress: bool | None = None,
    ) -> None:
        super().__init__(DeploymentSpec.from_manifest(manifest, target_name=target))
        self._progress = progress
        self._workflow = workflow
        self._scale_plan = ScalePlan()
        self._async_client: ScalableClient | None = None
        self._modules: UserModules | None = None
        self.on_calls: OnCalls | None = None

    @classmethod
    def from_yaml(
        cls,
        path: str | os.PathLike[str] | None = None,
        *,
        target: str | None = None,
        overlay: str | None = None,
        env: Mapping[str, str] | None = None,
        workflow: Path | None = None,
        progress: bool | None = None,
    ) -> ScalableSession:
        """Create a session from a manifest file.

        In a workflow that ``scalable run`` runs, this returns the running session, unless `path` names another
        manifest. Leaving its ``with`` block then closes nothing.

        Parameters
        ----------
        path : path, optional
            The manifest; by default ``SCALABLE_MANIFEST``, or ``scalable.yaml`` in the current directory.
        target : str, optional
            The target's name; by default ``SCALABLE_TARGET``, or ``auto``: a Slurm target inside a Slurm job, else a
            local one, else the first.
        overlay : str, optional
            The overlay to merge instead of the target's own.
        env : mapping, optional
            The variables for ``${VAR}`` and for the defaults above; by default the environment of the process, and
            for ``${VAR}`` also a file ``.env`` beside the manifest.
        workflow, progress : optional
            As for the class.

        Raises
        ------
        ManifestError
            The manifest cannot be used; the error lists every problem.
        SessionError
            The running session is on a target other than `target`.
        """
        environ = os.environ if env is None else env
        running = current_session()
        if running is not None and running._uses_manifest(path):
            running.check_requested_target(target)
            return running
        source = os.fspath(path or environ.get("SCALABLE_MANIFEST") or DEFAULT_MANIFEST)
        target = target or environ.get("SCALABLE_TARGET") or AUTO
        manifest = load_manifest(
            source,
            env=env,
            target_name=partial(choose_target, environ=environ) if target == AUTO else target,
            overlay_name=overlay,
            check_targets=check_options,
        )
        if manifest.selected_target is None:
            nowhere = "there is no target; write at least one, such as `local: {provider: local}`"
            raise ManifestSchemaError([manifest.issue("targets", "E_NO_TARGET", nowhere)])
        return cls(manifest, target=manifest.selected_target, workflow=workflow, progress=progress)

    @classmethod
    def attach(cls, run: str | os.PathLike[str] | None = None) -> AttachedSession:
        """Return the running session of another process of yours, which ``scalable up`` has started.

        A context manager like any session. Leaving it closes the client, and the session goes on.

        Parameters
        ----------
        run : str or path, optional
            The id of its run, the beginning of that, or the directory of its record; by default, the only one that
            runs from the current directory.

        Raises
        ------
        SessionError
            There is no such run, there are several, or it is on another machine.
        ManifestError
            A variable of its manifest is not set here.

        Examples
        --------
        From another script or notebook::

            with ScalableSession.attach() as client:
                client.submit(simulate, 2050, tag="fair").result()
        """
        from scalable.session.attached import AttachedSession

        return AttachedSession(run)

    # -- Before the start

    def validate(self) -> ValidationReport:
        """Return every problem of the manifest and of its target: offline, without side effects."""
        return self._report

    @cached_property
    def _report(self) -> ValidationReport:
        report = validate_manifest(self.manifest)
        try:
            return report + self.provider.validate(self.spec)
        except UnknownProviderError:
            return report  # which has an issue for it
        except ProviderError as error:
            where = ("targets", self.target, "provider")
            issue = self.manifest.issue(where, "E_PROVIDER", str(error))
            return report + ValidationReport((issue,))

    def plan(self, *, dry_run: bool = True) -> Plan:
        """Return what a start would request, and what that costs: offline, without side effects.

        Parameters
        ----------
        dry_run : bool
            Must be true, as it is by default: a plan never starts anything. Earlier versions asked for it.

        Raises
        ------
        ValidationFailedError
            The target cannot be planned; `validate` lists the problems.
        """
        from scalable.planning import build_plan

        if not dry_run:
            raise ValueError("a plan never starts anything; leave out dry_run, and call start()")
        report = self.validate()
        if not report.ok:
            raise ValidationFailedError(report)
        return build_plan(self.spec, self.provider)

    # -- While it runs

    def start(self, plan: Plan | None = None) -> ScalableClient:
        """Start the cluster, and return the client when each group that wants workers has one.

        Returns the client immediately if the session is running already.

        Parameters
        ----------
        plan : Plan, optional
            The plan that is to be started. The session plans anew, and refuses to start anything else.

        Raises
        ------
        ValidationFailedError
            The target is not valid; nothing was started.
        LimitExceededError
            The plan exceeds a limit of the target; nothing was started.
        ModulesError
            The workflow's modules cannot be sent to workers; nothing was started.
        ResultStoreError
            Results cannot be kept where the manifest says; nothing was started.
        GroupFailedError
            A group's workers cannot be started. Everything is closed again.
        SessionError
            The session is closed, or would start something else than `plan`.
        """
        if plan is not None:
            self._check_is_current(plan)
        if self._state is State.NEW:
            _warn_of_another(self)
        with self._lock:
            self._raise_if_in(State.STARTING, State.CLOSED)
            new = self._state is State.NEW
            if new:
                self._state = State.STARTING
                self._mark_open()
        if new:
            try:
                self._start()
            except BaseException as error:
                self._start_error = error
                self._close_after(error)
                raise
        return self.client

    def _check_is_current(self, plan: Plan) -> None:
        """Raise SessionError for a plan that is not what this session would start."""
        if not hasattr(plan, "manifest_lock"):
            raise TypeError(f"start() takes a plan from plan(), not {type(plan).__name__}")
        current = self.plan()
        if plan.to_json() != current.to_json():
            changed = ", ".join(
                field.name
                for field in fields(plan)
                if getattr(plan, field.name) != getattr(current, field.name)
            )
            raise SessionError(
                f"the plan is not what this session would start now: {changed} differ; "
                "look at plan(), and start that, or leave the plan out"
            )

    def _start(self) -> None:
        from scalable.planning import check_limits, plan_budget

        level = log_level(os.environ)
        self._shown.enter_context(logging_as_asked(level, self.manifest.redact))
        provider = self.provider
        plan = self.plan().scale_plan
        budget = plan_budget(self.spec, provider, plan)
        check_limits(self.spec, provider, plan)
        modules = self._find_modules()
        self._results = self.open_results()
        if self.recorder is None:
            self._begin_record()
            self._show_progress()
        if self._results is not None:
            self._results.on_calls = self.on_calls
        signals.register(self.close)
        handle = self._build_cluster(budget)
        upload_modules(self.client, modules.archive)
        self._modules = self.client.modules = modules
        if self.recorder is not None:
            self.recorder.count_tasks(self.cluster)
            if hasattr(self.cluster, "before_close"):
                # What was not closed is closed at the end of the interpreter, before the session is asked.
                self.cluster.before_close(self.recorder.note_tasks)
        provider.scale(handle, plan)
        self._scale_plan = plan
        self.client.sync(self._wait_for_first_workers, plan)
        self._mark_running()

    def _build_cluster(self, budget: Budget) -> ClusterHandle:
        """Build the cluster and give it its budget; close it again if the session was closed meanwhile."""
        from scalable.cluster.events import record_into
        from scalable.cluster.ledger import ledger_in

        provider, directory = self.provider, self.run_directory
        logs = directory / "logs" if directory else None
        began = time.monotonic()
        with (
            record_into(self._log),
            keep_logs_in(logs, self.manifest.redact),
            ledger_in(directory),
            naming_configuration(),
        ):
            self._handle = handle = provider.build_cluster(self.spec)
        check_cluster(provider.name, getattr(handle, "backend", handle))
        if self.closed:
            # Closed by another thread or a signal, while there was no handle to close.
            self._everything_removed = False
            provider.close(handle)
            self._everything_removed = True
        self._raise_if_in(State.CLOSED)
        if hasattr(self.cluster, "set_budget"):
            self.cluster.set_budget(budget, time.monotonic() - began)
        elif budget.is_limited:
            raise IncompleteClusterError(provider.name, type(self.cluster).__name__, ["set_budget"])
        return handle

    def _show_progress(self) -> None:
        """Show progress where it is wanted: in the cell of a notebook, or on stderr."""
        from scalable.cluster.notebook import in_notebook, show_live

        if self._progress is not False and in_notebook():
            show_live(self)
        elif shows_progress_on_stderr() if self._progress is None else self._progress:
            from scalable.progress.showing import progress_on_stderr

            self._shown.enter_context(progress_on_stderr(self))

    def _begin_record(self) -> None:
        """Begin a record of this session, where ``scalable run`` has not."""
        from scalable.session.own_record import OwnRecord

        self._own_record = OwnRecord.begin(self)
        if self._own_record is not None:
            self.recorder = self._own_record.recorder
            self.on_calls = self.recorder.record.note_calls

    def _find_modules(self) -> UserModules:
        listed = self.manifest.project.modules
        if listed is None:
            return UserModules(self._workflow or workflow_directory())
        base = self._manifest_path.parent if self._manifest_path else Path.cwd()
        return UserModules(None, [base / path for path in listed])

    def open_results(self) -> Results | None:
        """Return the store of results, which is made if it is not there; None if the manifest has none.

        Raises
        ------
        ResultStoreError
            It cannot be read or written, or it is somebody else's.
        """
        base = self._manifest_path.parent if self._manifest_path else Path.cwd()
        url = results_url(self.manifest, base)
        if url is None:
            return None
        from scalable.results.reuse import open_results
        from scalable.results.settings import store_options, task_rules

        def report(text: str, is_problem: bool) -> None:
            (self._log.warn if is_problem else self._log.record)("", text)

        rules = task_rules(self.manifest)
        return open_results(url, rules, report=report, **store_options(self.manifest))

    def _output_checks(self) -> OutputChecks | None:
        patterns = checked_outputs(self.manifest, kept=self._results is not None)
        if not patterns:
            return None
        from scalable.results.reuse import OutputChecks

        return OutputChecks(patterns)

    async def _wait_for_first_workers(self, plan: ScalePlan) -> None:
        """Wait for the first worker of each group that wants one at all times."""
        import asyncio

        wanted = {
            tag: plan.ranges_by_tag[tag][0] if tag in plan.ranges_by_tag else count
            for tag, count in plan.workers_by_tag.items()
        }
        # Concurrently, because a group that fails ends the wait for those that are still in a queue.
        await asyncio.gather(
            *(self.cluster.wait_for_group_async(tag) for tag, count in wanted.items() if count)
        )

    @property
    def cluster(self) -> GroupedCluster:
        """The running cluster.

        Raises
        ------
        SessionError
            The session is not started, or closed.
        """
        return self._open_handle.backend

    @property
    def _open_handle(self) -> ClusterHandle:
        self._raise_if_in(State.CLOSED)
        if self._state is State.NEW and current_session() is self:
            self.start()  # the workflow of `scalable run` needs workers for the first time
        if self._handle is None:
            raise SessionError("the session is not started; call start(), or enter it with `with`")
        return self._handle

    @property
    def client(self) -> ScalableClient:
        """The session's client; a new one if the workflow has closed the previous one.

        Raises
        ------
        SessionError
            The session is not started, or closed.
        """
        running = self._open_handle
        if self._client is None or self._client.status == "closed":
            self._failures = dict(self.failures)
            with naming_configuration("client"):
                self._client = running.client_factory()
            self._client.session = self
            self._client.modules = self._modules
            self._client.keep_results(self._results)
            self._client.outputs = self._output_checks()
        return self._client

    def scale(self, counts: Mapping[str, int]) -> None:
        """Set the desired number of workers of some groups, without waiting for them.

        A group that was adaptive keeps this count until `adapt`; one that had failed is tried again. Surplus workers
        finish the tasks that they run, and no result is lost.

        Parameters
        ----------
        counts : mapping of str to int
            Workers by tag.

        Raises
        ------
        UnknownTagError
            There is no such group.
        ValueError
            A count is negative, or the total exceeds ``max_workers``.
        LimitExceededError
            The cost would exceed the target's limit.
        """
        from scalable.cluster.targets import checked_counts

        changed = self._changed_plan(workers=checked_counts(counts))
        self.cluster.scale_groups(counts)
        self._scale_plan = changed

    def adapt(self, ranges: Mapping[str, tuple[int, int]]) -> None:
        """Make some groups adaptive, each between its minimum and maximum, without waiting for them.

        Parameters
        ----------
        ranges : mapping of str to (int, int)
            Minimum and maximum by tag.

        Raises
        ------
        UnknownTagError
            There is no such group.
        ValueError
            A range is empty, or the sum of the minima exceeds ``max_workers``.
        LimitExceededError
            The cost of the maxima would exceed the target's limit.
        """
        from scalable.cluster.targets import checked_ranges

        changed = self._changed_plan(ranges=checked_ranges(ranges))
        self.cluster.adapt_groups(ranges)
        self._scale_plan = changed

    def _changed_plan(self, **changes: Any) -> ScalePlan:
        """Return the plan with other counts or ranges.

        Raises
        ------
        UnknownTagError
            There is no such group.
        LimitExceededError
            The changed plan exceeds a limit of the target.
        """
        from scalable.planning import check_limits

        changed = changed_plan(self._scale_plan, self.cluster.groups, **changes)
        check_limits(self.spec, self.provider, changed)
        return changed

    @overload
    def explain(self) -> dict[str, Explanation]: ...

    @overload
    def explain(self, future: Future[Any]) -> str: ...

    def explain(self, future: Future[Any] | None = None) -> dict[str, Explanation] | str:
        """Return why workers are missing, by tag, for each group that has fewer than it wants or its work needs.

        While the cluster is being built, that is what its scheduler waits for.

        Parameters
        ----------
        future : distributed.Future, optional
            A task. Then the answer is why this one does not run yet, in one line.
        """
        if future is not None:
            why: str = self.client.explain(future)
            return why
        if self._state is State.STARTING and self._handle is None:
            from scalable.cluster.port import Explanation, Reason

            latest = self.events[-1].text if self.events else "the cluster is being built"
            return dict.fromkeys(self.spec.components, Explanation(Reason.STARTING, latest))
        return self.cluster.explain()

    def __enter__(self) -> ScalableClient:
        return self.start()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if current_session() is self:
            return
        if exc is None:
            self.close()
            return
        for note in self._close_after(exc):
            # Python shows no notes of SystemExit, and who catches another error may show nothing.
            self._say(note)

    # -- For coroutines

    async def start_async(self) -> ScalableClient:
        """Start the session as `start` does, without blocking the event loop, and return an asynchronous client.

        So does ``await session``; ``async with session as client`` also closes it. The session itself stays as it is:
        its methods block, and belong in `asyncio.to_thread`. On Slurm, import dask_jobqueue on the main thread before.

        Raises
        ------
        ScalableError
            As for `start`.
        """
        import asyncio

        from scalable.client import ScalableClient

        if self._async_client is None or self._async_client.status == "closed":
            signals.register(self.close)  # on this thread, where there can be handlers
            try:
                own = await asyncio.to_thread(self.start)
                self._async_client = await ScalableClient(
                    self.cluster.scheduler_address,
                    asynchronous=True,
                    security=self.cluster.security,
                    tasks=self.spec.components_by_task,
                    session=self,
                    direct_to_workers=own.direct_to_workers,
                )
            except BaseException as error:
                await asyncio.to_thread(self._close_after, error)
                signals.unregister(self.close)
                raise
            self._async_client.modules = self._modules
        return self._async_client

    async def close_async(self) -> None:
        """Close the asynchronous client and the session, as `close` does, without blocking the event loop."""
        import asyncio

        if self._async_client is not None:
            await self._async_client.close()
        await asyncio.to_thread(self.close)
        signals.unregister(self.close)  # on this thread, which alone can put handlers back

    def __await__(self) -> Generator[Any, None, ScalableClient]:
        return self.start_async().__await__()

    async def __aenter__(self) -> ScalableClient:
        return await self.start_async()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if current_session() is not self:
            await self.close_async()

    # -- In a notebook

    def _repr_html_(self) -> str:
        return as_html(self, self._state.name.lower(), self._body())

    def _live_html(self) -> tuple[str, bool]:
        # The state first: a session that is closed meanwhile is seen as closed the next time.
        state = self._state
        return live_html(self, state.name.lower(), self._body()), state is State.CLOSED

    def _ipython_display_(self) -> None:
        from scalable.cluster.notebook import show_live

        show_live(self)

    def _body(self) -> str:
        """Return HTML of the groups, and of why workers are missing, while there is a cluster."""
        cluster = None if self._handle is None or self.closed else self._handle.backend
        shown: str = getattr(cluster, "_repr_html_", str)()
        return shown

    # -- Inside `scalable run`

    def _uses_manifest(self, path: str | os.PathLike[str] | None) -> bool:
        return path is None or Path(path).resolve() == self._manifest_path

    def check_requested_target(self, target: str | None) -> None:
        """Check that a workflow which requests `target` can use this session.

        Raises
        ------
        SessionError
            The workflow names another target; the message says how to run it there.
        """
        if target not in (None, AUTO, self.target):
            raise SessionError(
                f"the workflow asks for target {target!r}, and this run is on {self.target!r}; "
                f"run it with --target {target}, or leave target= out of the workflow"
            )

    def _mark_running(self) -> None:
        """Record that there is a cluster to use."""
        with self._lock:
            self._raise_if_in(State.CLOSED)
            self._state = State.RUNNING

    def _raise_if_in(self, *states: State) -> None:
        if self._state not in states:
            return
        if self._state is State.CLOSED:
            raise SessionError("the session is closed; make a new one with from_yaml()")
        raise SessionError("the session is being started by another thread; wait for its start()")


def _warn_of_another(session: ScalableSession) -> None:
    """Warn if a session is open: as when a cell of a notebook is run again, perhaps with another target."""
    for number, other in enumerate(ScalableSession.open_sessions()):
        if other._manifest_path == session._manifest_path:
            warnings.warn(
                f"another session on target {other.target!r} is open, and keeps its own workers until it is closed; "
                f"close it with ScalableSession.open_sessions()[{number}].close(), if you do not use both",
                stacklevel=3,
            )
            return
