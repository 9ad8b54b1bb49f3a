"""What the client's process uses of Dask beyond its public interface.

Each name is listed in docs/extending/dask.md and has a test of its own against the installed version. Methods that
subclasses override are not here, and `scalable.cluster.plugin` has a module of its own, because it is sent by value.
"""

from __future__ import annotations

import asyncio
import inspect
import pickle
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from typing import Any

from dask._expr import HLGExpr, LLGExpr, _AnnotationsTombstone, _HLGExprSequence
from dask._task_spec import GraphNode, Task
from dask.blockwise import optimize_blockwise
from dask.core import flatten
from dask.highlevelgraph import HighLevelGraph
from dask.utils import funcname
from distributed import Client, Future
from distributed.cfexecutor import ClientExecutor
from distributed.client import FutureState
from distributed.protocol.pickle import dumps
from distributed.utils import iscoroutinefunction

__all__ = [
    "annotations_of",
    "as_expression",
    "computation_code",
    "defer_unpickling",
    "dependencies_of",
    "executor_of",
    "existing_future",
    "fail_futures",
    "finished_future",
    "function_name",
    "has_own_deserializers",
    "is_coroutine_function",
    "is_error_of_lost_actor",
    "is_result_without_raising",
    "keep_annotations",
    "pickle_object",
    "reset_future",
    "retrieve_gather_exceptions",
    "send_with_next",
    "take_from_gather",
    "when_client_is_missing",
]


def pickle_object(value: object) -> bytes:
    """Pickle an object as Dask does: by value where that is needed, and readable by Dask's servers."""
    pickled: bytes = dumps(value)
    return pickled


def function_name(func: Callable[..., Any]) -> str:
    """Return the name that Dask gives a function in keys."""
    name: str = funcname(func)
    return name


def is_coroutine_function(func: Callable[..., Any]) -> bool:
    """Return whether workers await a function instead of running it in a thread."""
    return bool(iscoroutinefunction(func))


def defer_unpickling(func: Callable[..., Any]) -> Task:
    """Wrap a function so that it is unpickled as a part of its task, which fails if it cannot be.

    Otherwise a worker unpickles it while it reads the scheduler's message, and a missing module ends the worker.
    """
    return Task(None, pickle.loads, pickle_object(func))


def dependencies_of(expr: Any) -> set[Any] | None:
    """Return the keys that the tasks of an expression depend on, or None if that cannot be known here."""
    graph = expr.__dask_graph__()
    if not all(isinstance(node, GraphNode) for node in graph.values()):
        return None
    return {key for node in graph.values() for key in node.dependencies}


def existing_future(client: Client, key: Any) -> Future[Any] | None:
    """Return a future of a call that was submitted before, as `Client.submit` does, or None if there is none."""
    with client._refcount_lock:
        state = client.futures.get(key)
        if state is None or state.status in ("cancelled", "lost"):
            return None
        future: Future[Any] = Future(key, client)
        return future


class _FinishedState(FutureState):
    """The state of a future that is finished from the beginning."""

    __slots__ = ()

    def __init__(self, key: Any) -> None:
        super().__init__(key)
        self.status = "finished"

    def done(self) -> bool:
        """Return whether it is finished, or has ended otherwise since."""
        return self.status == "finished" or bool(super().done())  # type: ignore[no-untyped-call]

    def _get_event(self) -> Any:
        # Made on the event loop, by who waits for it first. Few futures of many are ever waited for.
        is_new, event = self._event is None, super()._get_event()  # type: ignore[no-untyped-call]
        if is_new and self.status == "finished":
            event.set()
        return event


def finished_future(client: Client, key: Any) -> Future[Any]:
    """Return a new future that is finished, and of which the scheduler knows nothing."""
    with client._refcount_lock:
        client.futures[key] = _FinishedState(key)
        future: Future[Any] = Future(key, client)
        return future


def reset_future(client: Client, key: Any) -> None:
    """Make a finished future wait again, for a task that is about to be submitted under its key."""
    state = client.futures.get(key)
    loop: Any = client.loop
    if state is not None:
        loop.add_callback(state.reset)


def fail_futures(client: Client, error: Exception) -> None:
    """Make each future of a client raise this error, those with a result as well, because it is lost.

    To be called on the client's event loop. The client forgets the futures, so that closing it does not cancel them.
    """
    for state in client.futures.values():
        if state.status != "error":
            state.set_error(copy(error), None)  # each gathers a traceback of its own
    client.futures.clear()


def has_own_deserializers(client: Client) -> bool:
    """Return whether a client was told how to read what it receives."""
    return client._deserializers is not None


def send_with_next(client: Client, message: dict[str, Any], seconds: float) -> None:
    """Make a client send a message to the scheduler in one batch with its next one, or after this many seconds."""
    batched: Any = client.scheduler_comm
    loop: Any = client.loop
    if not batched.buffer:
        loop.call_later(seconds, batched.waker.set)
    batched.buffer.append(message)


def take_from_gather(
    client: Client, take: Callable[[Iterable[Any]], dict[Any, Any]]
) -> tuple[dict[Any, Any], bool]:
    """Answer the gather that a client is about to make, as far as the results are here.

    Parameters
    ----------
    client : Client
        The client, in its `_gather_remote`, before anything was awaited.
    take : callable
        Returns the results that are here, of the keys that it is called with.

    Returns
    -------
    tuple of dict and bool
        The results, and whether these are all. If not, the client is to gather the others.
    """
    keys: Any = client._gather_keys
    here = take(keys)
    keys.difference_update(here)
    if keys:
        return here, False
    client._gather_keys = client._gather_future = None
    return here, True


def is_error_of_lost_actor(error: object) -> bool:
    """Return whether this is the error in which Dask's scheduler ends an actor whose worker has ended."""
    return isinstance(error, RuntimeError) and str(error) == "Worker holding Actor was lost"


def is_result_without_raising() -> bool:
    """Return whether a client's `_gather`, which calls this, gathers for who takes errors as values.

    These are `distributed.as_completed` and Dask's executors. Where gathering raises, they wait for ever.
    """
    frame: Any = inspect.currentframe()
    caller = frame.f_back.f_back
    return caller.f_code is Future._result.__code__ and not caller.f_locals["raiseit"]


def retrieve_gather_exceptions() -> None:
    """Retrieve the exceptions of the asyncio tasks that an interrupted ``Client.gather`` leaves behind.

    Each waits for one future and fails when the client closes; asyncio would log that it was never retrieved.
    """
    for task in asyncio.all_tasks():
        coroutine = getattr(task.get_coro(), "__qualname__", "")
        if coroutine.startswith(f"{Client._gather.__qualname__}.<locals>"):
            task.add_done_callback(lambda task: task.cancelled() or task.exception())


def executor_of(client: Any, **options: Any) -> ClientExecutor:
    """Return an executor that submits its calls with this client."""
    return ClientExecutor(client, **options)


def computation_code(stacklevel: int | None, nframes: int) -> tuple[Any, ...]:
    """Return the code that asked for a computation, without frames of ours.

    Dask has configuration for that, which applies to the whole process.

    Parameters
    ----------
    stacklevel : int or None
        Return this frame only, counted from the caller's.
    nframes : int
        How many frames to return.
    """
    if stacklevel is not None:
        return Client._get_computation_code(stacklevel + 2, nframes)
    if nframes <= 0:
        return ()
    ours = [
        frame.f_code.co_filename
        for frame, _ in traceback.walk_stack(inspect.currentframe())
        if frame.f_globals.get("__name__", "").partition(".")[0] == "scalable"
    ]
    code = Client._get_computation_code(nframes=nframes + len(ours))
    return tuple(frame for frame in code if frame.filename not in ours)[-nframes:]


def as_expression(graph: Any) -> Any:
    """Return a graph as an expression, which the scheduler needs.

    `Client.recreate_error_locally` asks for the inputs of a task by a plain dictionary without tasks. The scheduler
    fails on that, and so do all who need these inputs from then on.
    """
    return LLGExpr(graph) if isinstance(graph, dict) else graph


def annotations_of(expr: Any) -> list[dict[str, Any]]:
    """Return the annotations of the parts of an expression that have any, each once."""
    found: list[dict[str, Any]] = []
    for part in _graphs(expr):
        for layer in part.hlg.layers.values():
            for each in _annotations_by_key(layer).values():
                if each and each not in found:
                    found.append(each)
    return found


def _annotations_by_key(layer: Any) -> dict[Any, dict[str, Any]]:
    """Return the annotations of a layer's tasks by their keys, or by None if they are the same for all.

    A value can be a function of the key. Dask makes layers like that of delayed objects in a list.
    """
    annotations = layer.annotations or {}
    if not any(map(callable, annotations.values())):
        return {None: annotations}
    by_key = {
        key: {name: value(key) if callable(value) else value for name, value in annotations.items()}
        for key in layer
    }
    return {
        key: {k: v for k, v in found.items() if not isinstance(v, _AnnotationsTombstone)}
        for key, found in by_key.items()
    }


def keep_annotations(
    expr: Any, translate: Callable[[Mapping[str, Any]], dict[str, Any]] = dict
) -> Any:
    """Return an expression of the same results in which no annotation is lost.

    Dask's optimisation of arrays and bags fuses tasks of a graph without its layers, whose annotations are dropped.
    This one leaves out what does not belong to the results, and fuses whole layers only, and those only if no two of
    them are annotated differently: the fused tasks would need the resources of both. Of an expression whose parts are
    all optimised already, or are not to be, the graph stays as it is.

    Parameters
    ----------
    expr : dask.Expr
        The expression.
    translate : callable
        Returns the annotations that take the place of those of a part.
    """
    parts = _graphs(expr)
    if not parts:
        return expr
    graph = HighLevelGraph.merge(*(part.hlg for part in parts))
    layers = {name: _translated(layer, translate) for name, layer in graph.layers.items()}
    is_final = all(part.low_level_optimizer is None for part in parts)
    if is_final and all(layers[name] is layer for name, layer in graph.layers.items()):
        return expr
    graph = HighLevelGraph(layers, graph.dependencies)
    keys = [*flatten([part.__dask_keys__() for part in parts])]
    translated = [translate(each) for each in annotations_of(expr)]
    if not is_final and all(each == translated[0] for each in translated):
        graph = optimize_blockwise(graph, keys=keys)
    return HLGExpr(dsk=graph.cull(keys), low_level_optimizer=None, output_keys=keys)


def _translated(layer: Any, translate: Callable[[Mapping[str, Any]], dict[str, Any]]) -> Any:
    """Return a layer with other annotations. The collection that it belongs to keeps its own."""
    by_key = {key: translate(each) for key, each in _annotations_by_key(layer).items()}
    if None in by_key:
        new = by_key[None]
    else:
        values: dict[str, dict[Any, Any]] = {}
        for key, annotated in by_key.items():
            for name, value in annotated.items():
                values.setdefault(name, {})[key] = value
        # The scheduler calls these. It need not have our packages, and fails on Dask's own value for keys without.
        new = {name: by_key.get for name, by_key in values.items()}
    if new == (layer.annotations or {}):
        return layer
    changed = copy(layer)
    changed.annotations = new
    return changed


def _graphs(expr: Any) -> list[HLGExpr]:
    """Return the parts of an expression that are graphs with layers; none if others are among them."""
    parts = expr.operands if isinstance(expr, _HLGExprSequence) else [expr]
    return list(parts) if all(isinstance(part, HLGExpr) for part in parts) else []


@contextmanager
def when_client_is_missing(start: Callable[[], object]) -> Iterator[None]:
    """Call `start` where Dask looks for its default client and there is none, until the block is left.

    Collections are computed by that client, and `get_client` returns it.
    """
    original: Any = Client.__dict__["current"]
    client: Any = Client

    def current(cls: type[Client], allow_global: bool = True) -> Any:
        find = original.__get__(None, cls)
        try:
            return find(allow_global)
        except ValueError:
            if not allow_global:
                raise
        start()
        return find(allow_global)

    client.current = classmethod(current)
    try:
        yield
    finally:
        client.current = original
