"""The results of a session: which calls have one in the store, and how the others get there."""

from __future__ import annotations

import inspect
import json
import logging
import weakref
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalable.errors import NotSupportedError, ResultStoreError
from scalable.results.files import Checked, check_fields
from scalable.results.naming import NamedCall, Rule, TaskRule, name_calls, rule_for
from scalable.results.store.keeping import EVENTS
from scalable.results.store.outputs import check_outputs, restore_outputs
from scalable.results.store.storage import CODE, DamagedResultError, Store, StoreError

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["Results", "open_results", "open_store"]

logger = logging.getLogger("scalable.results")

_ON_WORKERS = ("objects", "disk", "location", "segments", "storage", "outputs", "keeping")
"""The modules of `scalable.results.store` that workers get: each before those that import it."""

CHECKED_BYTES = 64 * 2**20
"""Larger results of a remote store are not read by the client before a task of the cluster reads them."""

OnCalls = Callable[[str, Sequence[NamedCall], Collection[str]], object]
"""Takes note of calls: the label of their task, the calls, and the names of those results that the store has."""


def _log(text: str, is_problem: bool) -> None:
    logger.log(logging.WARNING if is_problem else logging.INFO, "%s", text)


class Results:
    """The results that a session keeps, and those that it finds.

    Parameters
    ----------
    store : Store
        The open store.
    tasks : mapping of str to TaskRule
        The manifest tasks whose results are kept.
    images : mapping of str to str, optional
        The image of each component that has one, for functions that are marked.
    on_store_error : {"continue", "fail"}
        Whether a task fails if its result cannot be stored, or goes on without.
    report : callable, optional
        Is called with a line for people, and whether it is about a problem. By default, it is logged.
    redact : callable, optional
        Returns a text without what is not to be shown or written.
    copies : str, optional
        A directory for copies of results, on each machine that has workers.
    alone : bool
        Whether each result has a file of its own; by default, many small ones share one on a local disk.

    Attributes
    ----------
    counts : dict of str to (int, int)
        How many calls of each task had a result, and how many had none.
    kept_calls : dict of str to (str, int)
        The component of calls, and how many of them had a result, by what their keys begin with.
    on_calls : callable or None
        Called for calls before they are submitted, with the label of their task, the calls, and the names of those
        results that the store has.
    """

    def __init__(
        self,
        store: Store,
        tasks: Mapping[str, TaskRule],
        *,
        images: Mapping[str, str | None] | None = None,
        on_store_error: str = "continue",
        report: Callable[[str, bool], None] = _log,
        redact: Callable[[str], str] = str,
        copies: str | None = None,
        alone: bool = False,
    ) -> None:
        self.store, self.tasks, self.on_store_error = store, dict(tasks), on_store_error
        self._images = images or {}
        self._report, self._redact = report, redact
        self.copies, self.alone = copies, alone
        self._reported: set[str] = set()
        self._described: set[str] = set()
        self.counts: dict[str, tuple[int, int]] = {}
        self.kept_calls: dict[str, tuple[str | None, int]] = {}
        self.on_calls: OnCalls | None = None

    def rule(self, func: Callable[..., Any], task: str | None, tag: str | None) -> Rule | None:
        """Return how the results of a call are kept, or None if they are not."""
        return rule_for(func, task, self.tasks, self._images.get(tag) if tag else None)

    def name(
        self,
        rule: Rule,
        func: Callable[..., Any],
        calls: Iterable[Sequence[Any]],
        kwargs: Mapping[str, Any],
        name_future: Callable[[Any], str | None],
        edited: str = "",
    ) -> list[NamedCall]:
        """Return the names of calls, as `name_calls` does, once the store has the source of their function."""
        named, about = name_calls(rule, func, calls, kwargs, name_future, edited=edited)
        for reason in dict.fromkeys(call.reason for call in named if call.name is None):
            self.tell(f"{rule.label}: results are not kept: {reason}", once=True)
        if first := next((call.name for call in named if call.name), None):
            self._describe(first.rpartition("/")[0], about)
        return named

    def _describe(self, directory: str, about: Mapping[str, Any]) -> None:
        """Write what a version of a task was computed with, for those who compare versions."""
        if directory in self._described:
            return
        self._described.add(directory)
        name = f"{directory}/{CODE}"
        try:
            if self.store.read_bytes(name) is None:
                self.store.write_bytes(name, self._redact(json.dumps(about)).encode())
        except StoreError as error:
            self._fail(error)

    def find(self, names: Iterable[str]) -> dict[str, int]:
        """Return the sizes of those results that the store has, by name."""
        try:
            found = self.store.find(names)
        except StoreError as error:
            self._fail(error)
            return {}
        if self.store.refused:
            self.tell(
                f"results at {self.store.shown} that another user has written, or everybody can write, are not used; "
                "set trust_results: true in the manifest's project if you trust them",
                once=True,
            )
        if self.store.damaged:
            self.tell(
                f"segments of results at {self.store.shown} are damaged in part: "
                f"{', '.join(sorted(self.store.damaged))}; what cannot be read is computed again",
                once=True,
            )
        return found

    def _fail(self, error: StoreError) -> None:
        if self.on_store_error == "fail":
            raise ResultStoreError(self._redact(str(error))) from None
        self.tell(f"{error}; tasks are computed, and the run goes on", once=True)

    def reader(self, names: Iterable[str]) -> Callable[[str], Any]:
        """Return a function that returns the result of a name, which is one of these.

        It raises a `StoreError` if the result is damaged, or cannot be read.
        """
        return self.store.reader(names)

    def check(self, name: str, size: int, *, outputs: bool = False) -> None:
        """Raise if a result, or a file with it, cannot be used: as far as that is known without much traffic.

        Raises
        ------
        StoreError
            It is damaged, or cannot be read.
        """
        if outputs:
            check_outputs(self.store, name, content=self.store.is_local)
        if self.store.is_local or size <= CHECKED_BYTES:
            self.store.check_result(name)
            return
        header = self.store.read_header(name)
        if size < sum(header["frames"]):
            raise DamagedResultError(f"{name} in {self.store.shown} is damaged: a part is missing")

    def describe(self, name: str) -> dict[str, Any]:
        """Return what a result is computed from, as far as the store knows: of one that it lacks, no arguments."""
        try:
            about = self.store.read_code(name)
            return {**about, "arguments": self.store.read_header(name).get("arguments", {})}
        except DamagedResultError:
            return about
        except StoreError as error:
            self._fail(error)
            return {}

    def restore(self, name: str, to: str | None) -> dict[str, str]:
        """Write the files of a result where its task had written them, or below a directory, and return their paths.

        Raises
        ------
        OSError
            They are damaged or not there, or cannot be written.
        """
        return restore_outputs(self.store, name, to)

    def settings(self, rule: Rule | None) -> dict[str, Any]:
        """Return what a worker needs to know to keep a result, or to use the store at all."""
        return {
            "url": self.store.url,
            "shown": self.store.shown,
            "id": str(self.store.store_id),
            "on_store_error": self.on_store_error,
            "task": rule.label if rule else "",
            **({"copies": self.copies} if self.copies else {}),
            **({"alone": True} if self.alone or (rule and rule.outputs) else {}),
            **({"outputs": dict(rule.outputs)} if rule and rule.outputs else {}),
        }

    def install(self, client: Client) -> None:
        """Let all workers of a client's cluster, present and future, write and read results."""
        install_modules(client)
        client.subscribe_topic(EVENTS, lambda event: self.tell(str(event[1]), once=True))

    def count(
        self, rule: Rule, kept: int, to_do: int, calls: Sequence[NamedCall], found: Collection[str]
    ) -> None:
        """Count calls that are done and calls that are not, and tell of them if they are several."""
        if self.on_calls is not None:
            try:
                self.on_calls(rule.label, calls, found)
            except OSError as error:
                self.tell(f"the run's record is not complete: {error}", once=True)
        before = self.counts.get(rule.label, (0, 0))
        self.counts[rule.label] = before[0] + kept, before[1] + to_do
        if kept + to_do > 1:
            self._report(f"{rule.label}: {kept} kept, {to_do} to do", False)

    def count_kept(self, prefix: str, tag: str | None, number: int) -> None:
        """Count calls that had a result; a negative number is of those whose result turned out to be damaged."""
        self.kept_calls[prefix] = tag, self.kept_calls.get(prefix, (tag, 0))[1] + number

    def tell(self, problem: str, *, once: bool = False) -> None:
        """Warn of a problem."""
        if not once or problem not in self._reported:
            self._reported.add(problem)
            self._report(self._redact(problem), True)


def install_modules(client: Client) -> None:
    """Give all workers of a client's cluster, present and future, the modules that write results and files."""
    import cloudpickle

    from scalable.results import plugins, store

    cloudpickle.register_pickle_by_value(plugins)
    sources = {}
    for name in _ON_WORKERS:
        file = Path(store.__path__[0]) / f"{name}.py"
        text = file.read_text(encoding="utf-8").replace(store.__name__, plugins.PACKAGE)
        sources[name] = (text, str(file))
    client.register_plugin(plugins.StorePlugin(sources))


class OutputChecks:
    """Lets tasks fail that have not written their outputs, where these are not kept.

    Parameters
    ----------
    patterns : mapping of str to mapping
        For each manifest task with outputs, their paths by name.
    """

    def __init__(self, patterns: Mapping[str, Mapping[str, str]]) -> None:
        self._patterns = patterns
        self._installed: weakref.WeakSet[Any] = weakref.WeakSet()

    def wrap(self, client: Client, func: Callable[..., Any], task: str) -> Callable[..., Any]:
        """Return the function of a task with outputs, which fails without these."""
        patterns = self._patterns.get(task)
        if not patterns:
            return func
        if inspect.iscoroutinefunction(func):
            raise NotSupportedError(
                f"the outputs of task {task} are to be checked, which those of a coroutine function cannot be; "
                "use a plain function"
            )
        check_fields(task, patterns, func)
        if client not in self._installed:
            install_modules(client)
            self._installed.add(client)
        return Checked(task, dict(patterns), func)


def open_results(
    url: str,
    tasks: Mapping[str, TaskRule] | None = None,
    *,
    trusted: bool = False,
    redact: Callable[[str], str] = str,
    **options: Any,
) -> Results:
    """Return the results under a path or a URL, which is made if it is not there.

    Parameters
    ----------
    url : str
        A directory, or a URL of fsspec such as ``s3://bucket/results``.
    tasks : mapping of str to TaskRule, optional
        The manifest tasks whose results are kept.
    trusted : bool
        Whether to read what other users have written.
    redact : callable, optional
        Returns a text without what is not to be shown or written.
    **options
        As for `Results`.

    Raises
    ------
    ResultStoreError
        It cannot be used: it cannot be read or written, or it is somebody else's.
    """
    store = open_store(url, trusted=trusted, create=True, redact=redact)
    try:
        store.check_writable()
    except StoreError as error:
        raise ResultStoreError(redact(str(error))) from None
    return Results(store, tasks or {}, redact=redact, **options)


def open_store(
    url: str,
    *,
    trusted: bool = False,
    create: bool = False,
    redact: Callable[[str], str] = str,
) -> Store:
    """Return the store under a path or a URL.

    Parameters
    ----------
    url : str
        A directory, or a URL of fsspec.
    trusted : bool
        Whether to read what other users have written.
    create : bool
        Whether to make it if it is not there.
    redact : callable, optional
        Returns a text without what is not to be shown.

    Raises
    ------
    ResultStoreError
        It cannot be read, is not there, or is somebody else's.
    """
    from scalable.providers.base import current_owner

    try:
        store = Store(url, trusted=trusted, shown=redact(url))
        store.open(current_owner(), create=create)
    except StoreError as error:
        raise ResultStoreError(redact(str(error))) from None
    return store
