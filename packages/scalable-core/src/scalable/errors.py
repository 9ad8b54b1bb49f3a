"""Every error that Scalable raises on purpose.

The tree::

    ScalableError
    ├── ManifestError (ValueError)               a manifest cannot be used
    │   ├── ManifestParseError                   it is not a readable YAML mapping
    │   └── ManifestSchemaError                  it is readable, but its content is not valid
    ├── UnknownTargetError (KeyError)            the manifest has no such target
    ├── ValidationFailedError (ValueError)       a provider rejects the deployment
    ├── NotSupportedError (NotImplementedError)  this version does not support the request
    ├── ProviderError
    │   ├── ProviderNameError (ValueError)       a provider's name is empty or taken
    │   ├── UnknownProviderError (KeyError)      no provider of that name is installed
    │   ├── ProviderConflictError (RuntimeError) two distributions claim one name
    │   ├── QuarantinedProviderError (ImportError)  a provider's distribution cannot be used
    │   ├── ProviderNotSetUpError (RuntimeError) this machine lacks what the provider needs
    │   └── IncompleteClusterError (TypeError)   a provider has built a cluster without groups
    ├── LimitExceededError (ValueError)          the plan exceeds a limit of its target
    ├── ClusterError (RuntimeError)
    │   ├── LaunchError                          a launch failed, but may succeed later
    │   │   └── LaunchRefusedError               a launch was refused, and always will be
    │   ├── NativeTimeoutError (TimeoutError)    the native system did not answer a call in time
    │   ├── DaskConfigurationError               the scheduler did not start with Dask's configuration
    │   ├── SchedulerStartError                  the scheduler did not start
    │   ├── SchedulerLostError (ConnectionError) the scheduler is gone, and every task with it
    │   ├── MissingKeysError (TypeError)         a client has no keys for a scheduler under TLS
    │   ├── VersionMismatchError                 client and scheduler have different versions
    │   ├── GroupFailedError                     a worker group cannot get its workers
    │   ├── GroupTimeoutError (TimeoutError)     a worker group did not have its workers in time
    │   ├── WalltimeError (TimeoutError)         a task was still running at its worker's walltime
    │   ├── WorkerDiedError                      a task was running each time when workers died
    │   ├── ActorLostError (ConnectionError)     an actor's worker has ended, and its state is lost
    │   ├── AmbiguousScaleError (TypeError)      scale(n) or adapt() was called, without a group
    │   ├── ClusterClosedError                   the cluster is closed
    │   └── LeftoverError                        something could not be removed at close
    ├── SubmitError
    │   ├── UnknownTagError (KeyError)           no worker group has that tag
    │   ├── UnknownTaskError (KeyError)          the manifest has no such task
    │   ├── SlotsExceededError (ValueError)      no worker of the group has that many slots
    │   ├── TagConflictError (TypeError)         a task asks for workers of two groups
    │   └── UnknownWorkerError (ValueError)      no worker is called so, or none fits
    ├── UnknownHomeError (RuntimeError)          a path begins with a home directory that is not known
    ├── ModulesError (ValueError)                the user's own modules cannot be sent to the workers
    ├── ResultStoreError (OSError)               the results cannot be read or kept where they should be
    ├── TasksFailedError (RuntimeError)          a workflow has gone on without tasks that failed
    └── SessionError (RuntimeError)              a session was used out of order

Each carries its facts as attributes and ends its message with the next step. All can be pickled, because some
travel from the scheduler to the client as the exception of a task.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from scalable.cluster.port import Explanation, Leftover
    from scalable.manifest.issues import ValidationIssue, ValidationReport

__all__ = [
    "ActorLostError",
    "AmbiguousScaleError",
    "ClusterClosedError",
    "ClusterError",
    "DaskConfigurationError",
    "GroupFailedError",
    "GroupTimeoutError",
    "IncompleteClusterError",
    "LaunchError",
    "LaunchRefusedError",
    "LeftoverError",
    "LimitExceededError",
    "ManifestError",
    "ManifestParseError",
    "ManifestSchemaError",
    "MissingKeysError",
    "ModulesError",
    "NativeTimeoutError",
    "NotSupportedError",
    "ProviderConflictError",
    "ProviderError",
    "ProviderNameError",
    "ProviderNotSetUpError",
    "QuarantinedProviderError",
    "ResultStoreError",
    "ScalableError",
    "SchedulerLostError",
    "SchedulerStartError",
    "SessionError",
    "SlotsExceededError",
    "SubmitError",
    "TagConflictError",
    "TasksFailedError",
    "UnknownHomeError",
    "UnknownProviderError",
    "UnknownTagError",
    "UnknownTargetError",
    "UnknownTaskError",
    "UnknownWorkerError",
    "ValidationFailedError",
    "VersionMismatchError",
    "WalltimeError",
    "WorkerDiedError",
    "describe_error",
    "did_you_mean",
]


_MAX_WORD_LENGTH = 100  # the time for comparing grows with the square of it


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return a hint that names the most similar known word, or an empty string.

    Examples
    --------
    >>> did_you_mean("max_wrokers", ["max_workers", "containers"])
    " (did you mean 'max_workers'?)"
    >>> did_you_mean("zebra", ["max_workers"])
    ''
    """
    if len(word) > _MAX_WORD_LENGTH:
        return ""
    near = get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" (did you mean {near[0]!r}?)" if near else ""


def describe_error(error: BaseException) -> str:
    """Return an error's message, or a description of an error without one.

    Examples
    --------
    >>> describe_error(OSError("no route")), describe_error(TimeoutError())
    ('no route', 'it took too long')
    """
    try:
        return str(error) or (
            "it took too long" if isinstance(error, TimeoutError) else repr(error)
        )
    except Exception:  # noqa: BLE001 - of the error's own class, which must not hide the error
        return type(error).__name__


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"


def _rebuild(
    cls: type[ScalableError], args: tuple[Any, ...], facts: dict[str, Any]
) -> ScalableError:
    builtin: type[BaseException] = cls
    while builtin.__module__ != "builtins":
        # Of several builtins, find the one whose memory layout the class has: OSError has its own.
        builtin = cast("type[BaseException]", builtin.__base__)
    error: ScalableError = builtin.__new__(cls)
    error.args = args
    error.__dict__.update(facts)
    return error


class ScalableError(Exception):
    """Base of every error that Scalable raises on purpose."""

    def __str__(self) -> str:
        # KeyError's own __str__ would quote the message.
        return str(self.args[0]) if self.args else ""

    def __reduce__(self) -> tuple[Any, ...]:
        # The default calls the class with `args`, which hold the message, not the arguments of the constructor.
        return _rebuild, (type(self), self.args, self.__dict__)


class ManifestError(ScalableError, ValueError):
    """A manifest cannot be used; `issues` lists every problem that was found."""

    def __init__(self, issues: Sequence[ValidationIssue]) -> None:
        self.issues = tuple(issues)
        super().__init__("\n".join(str(issue) for issue in self.issues))


class ManifestParseError(ManifestError):
    """A manifest is not a readable YAML mapping."""


class ManifestSchemaError(ManifestError):
    """A manifest is readable, but its content is not valid."""


class UnknownTargetError(ScalableError, KeyError):
    """The manifest has no such target."""

    def __init__(self, target: str, known: Iterable[str]) -> None:
        self.target, self.known = target, tuple(known)
        super().__init__(
            f"no target {target!r} in the manifest{did_you_mean(target, self.known)}; "
            f"its targets are: {_listed(self.known)}"
        )


class ValidationFailedError(ScalableError, ValueError):
    """A provider rejects the deployment; `report` lists every problem."""

    def __init__(self, report: ValidationReport) -> None:
        self.report = report
        super().__init__("\n".join(str(issue) for issue in report.errors))


class NotSupportedError(ScalableError, NotImplementedError):
    """Something was requested that this version does not support."""


class ProviderError(ScalableError):
    """A provider cannot be used."""


class ProviderNameError(ProviderError, ValueError):
    """A provider's name is empty or already taken."""


class UnknownProviderError(ProviderError, KeyError):
    """No provider of that name is installed."""

    def __init__(
        self, name: str, installed: Iterable[str], install_hint: str | None = None
    ) -> None:
        self.name, self.installed = name, tuple(installed)
        self.install_hint = install_hint
        if install_hint:
            message = f"provider {name!r} is not installed: {install_hint}"
        else:
            message = f"unknown provider {name!r}{did_you_mean(name, self.installed)}"
        super().__init__(f"{message}; installed: {_listed(self.installed)}")


class ProviderConflictError(ProviderError, RuntimeError):
    """Two distributions claim one provider name."""

    def __init__(self, name: str, distributions: Iterable[str]) -> None:
        self.name, self.distributions = name, tuple(distributions)
        super().__init__(
            f"provider {name!r} is claimed by {' and by '.join(self.distributions)}; uninstall all but one of them"
        )


class QuarantinedProviderError(ProviderError, ImportError):
    """A provider's distribution cannot be used; every other provider still can."""

    def __init__(
        self, provider: str, distribution: str, cause: str, remedy: str, *, version: str = ""
    ) -> None:
        self.provider, self.distribution, self.version = provider, distribution, version
        self.cause, self.remedy = cause, remedy
        origin = f"{distribution} {version}".rstrip()
        super().__init__(f"provider {provider!r} of {origin} cannot be used: {cause}; {remedy}")


class ProviderNotSetUpError(ProviderError, RuntimeError):
    """A provider lacks what it needs on this machine, such as a command or credentials.

    Providers raise it from ``list_owned``. ``scalable ps`` and ``scalable reap`` then say that this provider was not
    asked, and do not fail for it.

    Attributes
    ----------
    provider : str
        The provider.
    missing : str
        What is missing.
    remedy : str
        What to do about it.
    """

    def __init__(self, provider: str, missing: str, remedy: str) -> None:
        self.provider, self.missing, self.remedy = provider, missing, remedy
        super().__init__(
            f"provider {provider!r} is not set up on this machine: {missing}; {remedy}"
        )


class IncompleteClusterError(ProviderError, TypeError):
    """A provider has built a cluster that cannot do what the engine's can, such as one of Dask's own.

    Attributes
    ----------
    provider, cluster : str
        The provider, and the class of what it has built.
    missing : tuple of str
        Attributes that it lacks.
    """

    def __init__(self, provider: str, cluster: str, missing: Iterable[str]) -> None:
        self.provider, self.cluster, self.missing = provider, cluster, tuple(missing)
        super().__init__(
            f"provider {provider!r} has built a {cluster}, which has no groups of workers: it lacks "
            f"{', '.join(self.missing)}; build a scalable.cluster.GroupedCluster with it as the host, and a backend "
            "that starts workers"
        )


class LimitExceededError(ScalableError, ValueError):
    """The plan exceeds a limit of its target."""


class ClusterError(ScalableError, RuntimeError):
    """Something is wrong with a running cluster."""


class LaunchError(ClusterError):
    """A launch failed, but the same launch may succeed later.

    Backends raise it from ``launch`` where the native system does not answer, or accepts no more for now. The group
    waits as in a queue: the controller tries again with back-off, for as long as it takes, and shows the reason.
    """

    def __init__(self, message: str, explanation: Explanation | None = None) -> None:
        self.explanation = explanation
        super().__init__(message)


class NativeTimeoutError(ClusterError, TimeoutError):
    """The native system did not answer a call in time; what the call has done is not known."""

    def __init__(self, limit: float) -> None:
        self.limit = limit
        super().__init__(f"the native system has not answered for {limit:g} s")


class LaunchRefusedError(LaunchError):
    """A launch was refused, and the same launch would be refused again."""


class DaskConfigurationError(ClusterError):
    """The scheduler or the client did not start, and Dask's configuration of this user or site may be why.

    Attributes
    ----------
    keys : tuple of str
        What that configuration sets, the likeliest cause first.
    """

    def __init__(
        self, keys: Iterable[str], cause: BaseException | str, what: str = "scheduler"
    ) -> None:
        self.keys = tuple(keys)
        self.cause = cause if isinstance(cause, str) else " ".join(describe_error(cause).split())
        super().__init__(
            f"the {what} did not start: {self.cause}; Dask's configuration here sets {', '.join(self.keys)}: "
            "check it in the files that `python -c 'import dask.config; print(dask.config.paths)'` lists, "
            "and in variables that begin with DASK_"
        )


class SchedulerStartError(ClusterError):
    """The scheduler of a cluster did not start; everything is removed again.

    Attributes
    ----------
    cluster : str
        The cluster's name.
    explanation : Explanation
        Normalised reason, native detail and log tail.
    """

    def __init__(self, cluster: str, explanation: Explanation) -> None:
        self.cluster, self.explanation = cluster, explanation
        super().__init__(f"the scheduler of cluster {cluster!r} did not start: {explanation}")


class SchedulerLostError(ClusterError, ConnectionError):
    """The scheduler is gone or does not answer, and every task and result is lost with it.

    Attributes
    ----------
    cluster : str
        The cluster's name.
    explanation : Explanation
        Normalised reason, native detail and log tail.
    """

    def __init__(self, cluster: str, explanation: Explanation) -> None:
        self.cluster, self.explanation = cluster, explanation
        what, *log = str(explanation).splitlines()
        message = (
            f"cluster {cluster!r} has lost its scheduler, and every task and result with it: {what}"
        )
        super().__init__("\n".join([message, *log]))


class MissingKeysError(ClusterError, TypeError):
    """A client was given the address of a scheduler under TLS, and no keys.

    Attributes
    ----------
    address : str
        The scheduler's address.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        super().__init__(
            f"{address} accepts only clients that have the keys of its cluster; pass the cluster instead of its "
            "address, ScalableClient(session.cluster), or its keys, security=session.cluster.security"
        )


class VersionMismatchError(ClusterError):
    """The client and the scheduler have different versions of Python, dask or distributed.

    Attributes
    ----------
    difference : str
        What differs, with both versions.
    image : str
        An image that has the client's versions.
    """

    def __init__(self, difference: str, image: str) -> None:
        self.difference, self.image = difference, image
        super().__init__(
            f"the scheduler does not fit the client: {difference}; use an image or environment with the client's "
            f"versions for scheduler and workers, such as {image}"
        )


class GroupFailedError(ClusterError):
    """A worker group cannot get its workers.

    Attributes
    ----------
    tag : str
        The group.
    explanation : Explanation
        Normalised reason, native detail, log tail and remedy.
    """

    def __init__(self, tag: str, explanation: Explanation) -> None:
        self.tag, self.explanation = tag, explanation
        super().__init__(f"worker group {tag!r} failed: {explanation}")


class GroupTimeoutError(ClusterError, TimeoutError):
    """A worker group did not have the requested workers in time."""

    def __init__(self, tag: str, wanted: int, running: int, timeout: float, why: str) -> None:
        self.tag, self.wanted, self.running = tag, wanted, running
        self.timeout, self.why = timeout, why
        super().__init__(
            f"worker group {tag!r} has {running} of {wanted} workers after {timeout:g} s: {why}"
        )


class WalltimeError(ClusterError, TimeoutError):
    """A task was still running when its worker reached its walltime.

    Attributes
    ----------
    tag, worker : str
        The group, and its worker.
    lifetime : float
        Seconds that the worker had in total.
    """

    def __init__(self, tag: str, worker: str, lifetime: float) -> None:
        self.tag, self.worker, self.lifetime = tag, worker, lifetime
        super().__init__(
            f"the task was still running when worker {worker} of group {tag!r} reached its walltime, which is "
            f"{lifetime / 60:.0f} min; give the group a longer walltime, or cut the task into shorter ones"
        )


def _quoted_log(explanation: Explanation | None, worker: str) -> str:
    if not (explanation and explanation.log_tail):
        return ""
    lines = "".join(f"\n  | {line}" for line in explanation.log_tail.splitlines())
    return f"\nthe end of the log of {worker}:{lines}"


class WorkerDiedError(ClusterError):
    """A task was running each time when workers died, more often than `distributed.scheduler.allowed-failures`.

    Tasks end in a subclass that is also `distributed.KilledWorker`, in which they would end without Scalable.

    Attributes
    ----------
    task : str
        The task's key.
    attempts : int
        How often it was started; each time, its worker died.
    workers : tuple of str
        These workers.
    explanation : Explanation or None
        Why the last of them died, with the end of its log; None where that is not known.
    """

    def __init__(
        self,
        task: str,
        deaths: Sequence[tuple[str, str]],
        explanation: Explanation | None = None,
    ) -> None:
        self.task, self.attempts = task, len(deaths)
        self.workers = tuple(worker for worker, _ in deaths)
        self.explanation = explanation
        workers: dict[str, list[str]] = {}
        for worker, why in deaths:
            workers.setdefault(why, []).append(worker)
        reasons = "; ".join(f"{why} ({', '.join(names)})" for why, names in workers.items())
        each = f"on each of {len(deaths)} attempts" if len(deaths) > 1 else "on its only attempt"
        message = f"task {task!r} was running when its worker died, {each}: {reasons}"
        remedy = explanation.remedy if explanation else ""
        message += f"; {remedy or 'call the function by itself to find out what ends its process'}"
        super().__init__(message + _quoted_log(explanation, self.workers[-1]))


class ActorLostError(ClusterError, ConnectionError):
    """The worker of an actor has ended, and the actor's state is lost. Dask does not make it anew.

    Attributes
    ----------
    actor : str
        The actor's key.
    worker : str
        Its worker.
    explanation : Explanation or None
        Why that has ended, with the end of its log; None where that is not known.
    """

    def __init__(
        self, actor: str, worker: str, why: str, explanation: Explanation | None = None
    ) -> None:
        self.actor, self.worker, self.explanation = actor, worker, explanation
        message = (
            f"actor {actor!r} is lost with its state, because its worker {worker} has ended: {why}"
        )
        if explanation and explanation.remedy:
            message += f"; {explanation.remedy}"
        message += "; submit it again"
        super().__init__(message + _quoted_log(explanation, worker))


class AmbiguousScaleError(ClusterError, TypeError):
    """A method was called that does not specify a worker group."""

    def __init__(self, method: str, instead: str) -> None:
        self.method, self.instead = method, instead
        super().__init__(f"{method} does not specify a worker group; use {instead}")


class ClusterClosedError(ClusterError):
    """The cluster is closed.

    Attributes
    ----------
    name : str
        The cluster's name.
    in_fork : bool
        Whether it is only this process that cannot use it: a fork of the one that has it.
    """

    def __init__(self, name: str, in_fork: bool = False) -> None:
        self.name, self.in_fork = name, in_fork
        super().__init__(
            f"cluster {name!r} is closed in a fork of the process that has it; "
            "get what the fork needs before it is made, or build a cluster in it"
            if in_fork
            else f"cluster {name!r} is closed; build a new one"
        )


class LeftoverError(ClusterError):
    """Something that belongs to the cluster could not be removed at close.

    Attributes
    ----------
    cluster : str
        The cluster's name.
    leftovers : tuple of Leftover
        What is left, and why.
    command : str
        The command that removes it later; empty if there is none.
    """

    def __init__(self, cluster: str, leftovers: Sequence[Leftover], command: str = "") -> None:
        self.cluster, self.leftovers, self.command = cluster, tuple(leftovers), command
        listed = "; ".join(str(leftover) for leftover in self.leftovers)
        remedy = f"; later, remove it with: {command}" if command else ""
        super().__init__(f"cluster {cluster!r} left behind: {listed}{remedy}")


class SubmitError(ScalableError):
    """A task cannot be submitted as requested."""


class UnknownTagError(SubmitError, KeyError):
    """No worker group has that tag."""

    def __init__(self, tag: str, known: Iterable[str]) -> None:
        self.tag, self.known = tag, tuple(known)
        super().__init__(
            f"no worker group has the tag {tag!r}{did_you_mean(tag, self.known)}; "
            f"the tags are: {_listed(self.known)}"
        )


class UnknownTaskError(SubmitError, KeyError):
    """The manifest has no such task."""

    def __init__(self, task: str, known: Iterable[str]) -> None:
        self.task, self.known = task, tuple(known)
        super().__init__(
            f"no task {task!r} in the manifest{did_you_mean(task, self.known)}; "
            f"its tasks are: {_listed(self.known)}"
        )


class SlotsExceededError(SubmitError, ValueError):
    """No worker of the group has that many slots."""

    def __init__(self, tag: str, n: float, slots: int) -> None:
        self.tag, self.n, self.slots = tag, n, slots
        super().__init__(
            f"n={n} of tag {tag!r} fits no worker: each has {slots} slot{'s' * (slots != 1)}; "
            f"set components.{tag}.slots to {n} or more"
        )


class TagConflictError(SubmitError, TypeError):
    """A task asks for workers of two groups."""

    def __init__(self, tags: Iterable[str]) -> None:
        self.tags = tuple(tags)
        super().__init__(
            f"a task runs on one worker, which has the tag of one group; this asks for {_listed(self.tags)}: "
            "keep one of tag=, resources= and dask.annotate(resources=…)"
        )


class UnknownWorkerError(SubmitError, ValueError):
    """No worker that a task names is connected, or none has what it requires."""

    def __init__(
        self,
        workers: Iterable[object],
        resources: Mapping[str, float] | None,
        tags: Iterable[str] = (),
    ) -> None:
        self.workers = tuple(map(str, workers))
        self.resources = None if resources is None else dict(resources)
        named = ", ".join(map(repr, self.workers))
        lack = "is connected" if self.resources is None else f"has {self.resources}"
        tag = next((each for each in tags if each in self.workers), None)
        instead = "leave out workers" if tag is None else f"for a group, give tag={tag!r}"
        super().__init__(
            f"no worker named in workers= {lack}: {named}; {instead}, "
            "or see client.scheduler_info()['workers'] for names and tags"
        )


class UnknownHomeError(ScalableError, RuntimeError):
    """A path begins with a home directory that is not known."""

    def __init__(self, path: str) -> None:
        self.path = path
        user = path.partition("/")[0].removeprefix("~")
        why = f"there is no user {user!r}" if user else "HOME is not set, and the system has none"
        super().__init__(f"the home directory of {path} is not known: {why}; write the whole path")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path,)


class ModulesError(ScalableError, ValueError):
    """The user's own modules cannot be sent to the workers."""


class ResultStoreError(ScalableError, OSError):
    """The results cannot be read or kept where they should be."""


class TasksFailedError(ScalableError, RuntimeError):
    """A workflow has gone on without tasks that failed."""


class SessionError(ScalableError, RuntimeError):
    """A session was used out of order."""
