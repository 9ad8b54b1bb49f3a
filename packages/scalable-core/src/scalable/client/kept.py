"""Futures of calls whose results are kept: finished at once if the store has the result."""

from __future__ import annotations

import asyncio
import json
import operator
import pickle
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import dask.base
from dask.utils import key_split
from distributed import Future

from scalable.client.keys import key_prefix, keys_of_map
from scalable.client.maps import map_calls
from scalable.cluster.dask_internals import (
    defer_unpickling,
    dependencies_of,
    existing_future,
    finished_future,
    is_coroutine_function,
    reset_future,
)
from scalable.cluster.plugin import passable
from scalable.errors import NotSupportedError, ResultStoreError

if TYPE_CHECKING:
    from scalable.client.gathering import GatheringClient
    from scalable.results.naming import NamedCall, Rule
    from scalable.results.reuse import Results

__all__ = ["KeptFutures"]

WORKER_MODULE = "_scalable_results.keeping"
"""In `scalable.results.plugins.PACKAGE`, which this layer does not import."""

READERS = 8
"""Results that are read from a remote store at a time. Threads only delay each other where reading takes no time."""

LOCAL_READERS = 2
"""The same for a local directory, if there is much to read."""

MUCH = 2**20
"""So many bytes are read by one thread as fast as by several."""


@dataclass(slots=True)
class _Found:
    """A future whose result the store has.

    Parameters
    ----------
    call : NamedCall
        The call, with the result's name.
    args : tuple
        Its positional arguments.
    size : int
        The size of the result, in bytes.
    settings : dict
        What a worker needs to know to load it.
    submit : callable
        Submits calls after all.
    tag : str or None
        The component whose workers may compute it.
    on_cluster : bool
        Whether the cluster has a task that loads it.
    """

    call: NamedCall
    args: tuple[Any, ...]
    size: int
    settings: Mapping[str, Any]
    submit: Callable[..., dict[Any, Future[Any]]]
    tag: str | None = None
    on_cluster: bool = False


class KeptFutures:
    """The futures of one client's calls whose results are kept.

    A future whose result the store has is finished at once, and the scheduler does not know of it. Its result is loaded
    when it is asked for: by the client, or by a task that is submitted when another one needs it.

    Parameters
    ----------
    client : GatheringClient
        The client.
    results : Results
        What the store has.
    """

    def __init__(self, client: GatheringClient, results: Results) -> None:
        self._client, self.results = client, results
        self._names: dict[Any, str] = {}
        self._found: dict[Any, _Found] = {}
        self._with_files: set[Any] = set()
        self._is_installed = False

    def map(
        self,
        rule: Rule,
        func: Callable[..., Any],
        calls: Sequence[tuple[Any, ...]],
        kwargs: Mapping[str, Any],
        *,
        key: Any = None,
        tag: str | None,
        resources: dict[str, float] | None,
        version: str,
        **options: Any,
    ) -> list[Future[Any]]:
        """Return a future for each call.

        Parameters
        ----------
        rule : Rule
            How the results are kept.
        func : callable
            The function.
        calls : sequence of tuple
            The positional arguments of each call.
        kwargs : mapping
            The keyword arguments of all of them.
        key : str or iterable of str, optional
            Their keys, or what these begin with.
        tag : str or None
            The component whose workers may run them.
        resources : dict, optional
            What they require of a worker.
        version : str
            Identifies what the user has changed in modules while the session is open.
        **options
            As for ``distributed.Client.map``.
        """
        self._check(rule, func)
        named = self.results.name(rule, func, calls, kwargs, self._name_of, version)
        if key is None or isinstance(key, str):
            prefix, n = key or key_prefix(tag, func), (resources or {}).get(tag or "", 1)
            rest = [args for args, call in zip(calls, named, strict=True) if call.name is None]
            others = keys_of_map(
                tag, n, func, rest, kwargs, pure=True, prefix=prefix, version=version
            )
            keys = _keys(prefix, named, others)
        else:
            keys = list(key)
        known = self._client.futures
        futures = {
            each: future
            for each in keys
            if each in known and (future := existing_future(self._client, each))
        }
        new = {
            call.name: each
            for each, call in zip(keys, named, strict=True)
            if call.name and each not in futures
        }
        found = self.results.find(new)
        settings = self.results.settings(rule)
        submit: Callable[..., dict[Any, Future[Any]]] = partial(
            self._submit,
            func,
            kwargs,
            resources=resources,
            settings=settings,
            **options,
        )
        finished: list[Any] = []
        to_do: dict[Any, tuple[Any, NamedCall, tuple[Any, ...]]] = {}
        for each, call, args in zip(keys, named, calls, strict=True):
            if each in futures or each in to_do:
                continue
            if call.name and call.name in found and new[call.name] == each:
                size = found[call.name]
                self._found[each] = _Found(call, args, size, settings, submit, tag)
                futures[each] = finished_future(self._client, each)
                finished.append(each)
            else:
                to_do[each] = each, call, args
            if call.name:
                self._names[each] = call.name
                if rule.outputs:
                    self._with_files.add(each)
        for name, number in Counter(map(key_split, finished)).items():
            self.results.count_kept(name, tag, number)
        self.results.count(rule, len(finished), len(to_do), named, found)
        futures |= submit([*to_do.values()])
        return [futures[each] for each in keys]

    def _check(self, rule: Rule, func: Callable[..., Any]) -> None:
        """Raise if results cannot be kept."""
        if self._client.asynchronous:
            raise NotSupportedError(
                f"results of {rule.label} are to be kept, which an asynchronous client cannot do; "
                "use one with asynchronous=False"
            )
        if is_coroutine_function(func):
            raise NotSupportedError(
                f"results of {rule.label} are to be kept, which a coroutine function's cannot be; "
                "use a plain function"
            )

    def _name_of(self, future: Future[Any]) -> str | None:
        return self._names.get(future.key)

    def _submit(
        self,
        func: Callable[..., Any],
        kwargs: Mapping[str, Any],
        calls: Sequence[tuple[Any, NamedCall, tuple[Any, ...]]],
        *,
        settings: Mapping[str, Any],
        **options: Any,
    ) -> dict[Any, Future[Any]]:
        """Submit calls, whose workers store the results."""
        self._install()
        deferred = defer_unpickling(func)
        keeping = defer_unpickling(partial(_OnWorker("keep"), settings, func))
        rows: dict[Any, tuple[Any, ...]] = {}
        for key, call, args in calls:
            row = (keeping, _about(call), *args) if call.name else (deferred, *args)
            rows[key] = self._reading(row, kwargs)
        futures: dict[Any, Future[Any]] = {}
        for length in {*map(len, rows.values())}:
            some = {key: row for key, row in rows.items() if len(row) == length}
            futures |= dict(zip(some, self._run(some, kwargs, **options), strict=True))
        return futures

    def _reading(self, row: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
        """Return a row, whose worker first restores the files of those futures that are arguments."""
        names = self.files_of((row[1:], kwargs))
        if not names:
            return row
        return defer_unpickling(partial(_OnWorker("with_files"), self._place())), names, *row

    def _place(self) -> dict[str, Any]:
        return self.results.settings(None)

    @property
    def has_files(self) -> bool:
        """Whether tasks of futures have written files, as far as these are kept."""
        return bool(self._with_files)

    def files_of(self, arguments: Any) -> list[str]:
        """Return the names of the results among arguments whose tasks have written files."""
        if not self._with_files:
            return []
        keys = dict.fromkeys(_keys_in(arguments))
        return [self._names[key] for key in keys if key in self._with_files]

    def reading(
        self, func: Callable[..., Any], calls: Sequence[tuple[Any, ...]], kwargs: Mapping[str, Any]
    ) -> list[tuple[Any, ...]] | None:
        """Return rows for calls of a function that may read files of earlier tasks; None if these wrote none.

        Each row has a function of Dask's and its arguments, for `operator.call`. It restores the files before.
        """
        names = [self.files_of((args, kwargs)) for args in calls] if self._with_files else []
        if not any(names):
            return None
        self._install()
        restoring = defer_unpickling(partial(_OnWorker("with_files"), self._place()))
        deferred = defer_unpickling(func)
        return [(restoring, each, deferred, *args) for each, args in zip(names, calls, strict=True)]

    def _run(
        self, rows: Mapping[Any, tuple[Any, ...]], kwargs: Mapping[str, Any], **options: Any
    ) -> list[Future[Any]]:
        """Submit calls, each of which is a row: what is called, and with what."""
        columns = [*zip(*rows.values(), strict=True)]
        return map_calls(self._client, operator.call, columns, kwargs, key=[*rows], **options)

    def _install(self) -> None:
        if not self._is_installed:
            self.results.install(self._client)
            self._is_installed = True

    def restore(self, future: Future[Any], to: str | None) -> dict[str, str]:
        """Write the files of a future's task, once it is done, and return their paths."""
        future.result()
        name = self._names.get(future.key)
        if name is None:
            raise ResultStoreError(
                f"the outputs of {future.key} are not kept; give its task cache: true and outputs"
            )
        try:
            return self.results.restore(name, to)
        except OSError as error:
            raise ResultStoreError(
                f"the outputs of {future.key} cannot be restored: {error}"
            ) from None

    # -- What needs a result

    def provide(self, expr: Any, resources: Any) -> None:
        """Let the cluster load those results that a graph needs, or compute them if they are damaged."""
        keys = [key for key, found in [*self._found.items()] if not found.on_cluster]
        if not keys:
            return
        needed = dependencies_of(expr)
        keys = [key for key in keys if needed is None or key in needed]
        rows = {}
        for key in keys:
            found = self._found[key]
            found.on_cluster = True
            try:
                name = str(found.call.name)
                self.results.check(name, found.size, outputs="outputs" in found.settings)
            except OSError as error:
                self._compute({key: error})
            else:
                load = defer_unpickling(partial(_OnWorker("load"), found.settings))
                rows[key] = (load, name)
        if rows:
            self._install()
            # Not counted as tasks that are done.
            with dask.base.annotate(scalable_kept=True):
                self._run(rows, {}, resources=None if callable(resources) else resources)

    def take(self, keys: Iterable[Any]) -> dict[Any, _Found]:
        """Return which of these results the store has."""
        return {key: self._found[key] for key in keys if key in self._found}

    def has_all(self, futures: Any) -> bool:
        """Return whether these are futures in a list, and the store has the result of each."""
        return type(futures) is list and all(
            isinstance(future, Future)
            and future.key in self._found
            and future.client is self._client
            and future.status == "finished"
            for future in futures
        )

    async def gather(self, futures: Sequence[Future[Any]]) -> list[Any]:
        """Return results that the store has. Dask's gather waits for each in an asyncio task, which takes longer."""
        values = await self.load(self.take(future.key for future in futures))
        return [values[future.key] for future in futures]

    async def load(self, wanted: Mapping[Any, _Found]) -> dict[Any, Any]:
        """Return results that the store has; damaged ones are computed again."""
        keys = [*wanted]
        readers = READERS
        if self.results.store.is_local:
            is_much = sum(found.size for found in wanted.values()) > MUCH
            readers = LOCAL_READERS if is_much else 1
        readers = min(readers, len(keys))
        read = await asyncio.gather(
            *(
                asyncio.to_thread(self._read, {key: wanted[key] for key in keys[begin::readers]})
                for begin in range(readers)
            )
        )
        values: dict[Any, Any] = {}
        problems: dict[Any, Exception] = {}
        for some, failed in read:
            values |= some
            problems |= failed
        if problems:
            await asyncio.to_thread(self._compute, problems)
            again: list[Future[Any]] = [Future(key, self._client) for key in problems]
            values |= dict(zip(problems, await self._client._gather(again), strict=True))
        return values

    def _read(self, wanted: Mapping[Any, _Found]) -> tuple[dict[Any, Any], dict[Any, Exception]]:
        values: dict[Any, Any] = {}
        problems: dict[Any, Exception] = {}
        names = {key: str(found.call.name) for key, found in wanted.items()}
        read = self.results.reader(names.values())
        for key, name in names.items():
            try:
                values[key] = read(name)
            except BaseException as error:  # noqa: BLE001 - reported; whatever it is, the call can be computed
                problems[key] = passable(error, "unpickling the result")
        return values, problems

    def _compute(self, problems: Mapping[Any, Exception]) -> None:
        """Compute results that cannot be loaded."""
        for key, error in problems.items():
            found = self._found.pop(key, None)
            if found is not None:
                self.results.tell(f"{error}; it is computed again", once=True)
                self.results.count_kept(key_split(key), found.tag, -1)
                reset_future(self._client, key)
                found.submit([(key, found.call, found.args)])

    def discard(self, key: Any) -> None:
        """Forget a future that nobody holds any more."""
        self._names.pop(key, None)
        self._found.pop(key, None)
        self._with_files.discard(key)

    def clear(self) -> None:
        """Forget all of them."""
        self._names.clear()
        self._found.clear()
        self._with_files.clear()


class _OnWorker:
    """Stands for a function of the module that workers have, and is pickled as that.

    Parameters
    ----------
    name : str
        The function's name.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError(f"{self._name} runs on workers")

    def __reduce__(self) -> tuple[Any, ...]:
        return pickle.loads, (f"c{WORKER_MODULE}\n{self._name}\n.".encode(),)


def _keys_in(value: Any) -> Iterator[Any]:
    """Yield the keys of the futures in a value, as far as Dask looks for them."""
    if isinstance(value, Future):
        yield value.key
    elif type(value) in (list, tuple, set, frozenset):
        for each in value:
            yield from _keys_in(each)
    elif isinstance(value, Mapping):
        yield from _keys_in([*value.values()])


def _about(call: NamedCall) -> str:
    """Return a call's name and what the store says of it as one text, which Dask need not look into."""
    return f"{call.name} {json.dumps({'arguments': call.arguments})}"


def _keys(prefix: object, named: Iterable[NamedCall], others: Iterable[Any]) -> list[Any]:
    """Return the keys of calls: by the name of the result, or the next of `others` where it has none."""
    rest = iter(others)
    return [_key(prefix, call.name) if call.name else next(rest) for call in named]


def _key(prefix: object, name: str) -> str:
    """Return the key of a call by the name of its result.

    Examples
    --------
    >>> _key("gcam.simulate", "simulate/0123456789abcdef/00112233445566778899aabbccddeeff")
    'gcam.simulate-0123456789abcdef00112233445566778899aabbccddeeff'
    """
    return f"{prefix}-{name[name.index('/') :].replace('/', '')}"
