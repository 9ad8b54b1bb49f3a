"""What a call requires of its worker, and whether any worker can ever have it. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from numbers import Real
from typing import Any, NoReturn

from scalable.errors import (
    SlotsExceededError,
    TagConflictError,
    UnknownTagError,
    UnknownTaskError,
    UnknownWorkerError,
)

__all__ = [
    "check_resources",
    "check_workers",
    "refuse_other_workers",
    "resolve_tag",
    "resources_for_tag",
    "tag_options",
    "workers_with_tag",
]


def resolve_tag(
    tag: str | None, task: str | None, n: int | None, tasks: Mapping[str, str]
) -> str | None:
    """Return the tag that a call is for.

    Examples
    --------
    >>> resolve_tag(None, "simulate", None, {"simulate": "gcam"})
    'gcam'
    """
    _check_name("tag", tag)
    _check_name("task", task)
    if task is not None:
        if task not in tasks:
            raise UnknownTaskError(task, tasks)
        component = tasks[task]
        if tag not in (None, component):
            raise TypeError(
                f"task {task!r} runs on component {component!r}, not on tag {tag!r}; leave out tag"
            )
        return component
    if tag is None and n is not None:
        raise TypeError(
            "n= counts slots of a tag, and there is no tag; give tag= too, "
            "or pass an argument named n to your function by position"
        )
    return tag


def resources_for_tag(
    tag: str, n: int | None, resources: Mapping[str, float] | None, *, anywhere: Any = False
) -> dict[str, float]:
    """Return the Dask resources of a call that carries a tag.

    Parameters
    ----------
    tag : str
        The component whose workers may run it.
    n : int or None
        Slots that it takes; None for one.
    resources : mapping of str to float or None
        What it requires besides.
    anywhere : object
        Whether Dask may run it on other workers than those asked for.

    Examples
    --------
    >>> resources_for_tag("gcam", 2, None)
    {'gcam': 2}
    """
    need = 1 if n is None else n
    if not isinstance(need, Real):
        raise TypeError(f"n={need!r} is not a number of slots; give an int, such as n=1")
    if not need >= 1:
        raise ValueError(f"n={need} is not a valid number of slots; give n=1 or more")
    if resources:
        _check_amounts(resources)
    needed = {**(resources or {}), tag: need}
    if anywhere:
        refuse_other_workers(needed)
    if resources and resources.get(tag, need) != need:
        raise TypeError(
            f"resources= asks for {resources[tag]:g} slots of tag {tag!r}, and n= for {need}; leave out resources"
        )
    return needed


def refuse_other_workers(resources: Mapping[str, float]) -> NoReturn:
    """Raise because a call that requires resources may run on other workers than those that it names.

    The scheduler of distributed would assign it to workers without these resources, and fail on that.
    """
    tag = next(iter(resources))
    raise TypeError(
        f"allow_other_workers= would let Dask run it on workers without the tag {tag!r}; leave it out"
    )


def tag_options(annotations: Mapping[str, Any]) -> dict[str, Any]:
    """Return which options of a call annotations stand for: its tag, its task and its number of slots.

    Examples
    --------
    >>> tag_options({"tag": "gcam", "n": 2, "retries": 3})
    {'tag': 'gcam', 'n': 2}
    >>> tag_options({"n": 2})
    {}
    """
    if annotations.get("tag") is None and annotations.get("task") is None:
        return {}
    return {name: annotations[name] for name in ("tag", "task", "n") if name in annotations}


def _check_name(option: str, name: object) -> None:
    if name is not None and not isinstance(name, str):
        raise TypeError(f"{option}={name!r} is not a name; give one str, such as {option}='gcam'")


def _check_amounts(resources: Mapping[str, float]) -> None:
    """Raise unless these are amounts of resources by name."""
    if not isinstance(resources, Mapping):
        raise TypeError(
            f"resources={resources!r} does not say how much of each; "
            "give a mapping, such as resources={'gcam': 1}"
        )
    for name, need in resources.items():
        if not isinstance(need, Real) or not need >= 0:
            raise TypeError(
                f"resources= asks for {need!r} of {name!r}, which is no amount; give a number from 0 on"
            )


def check_resources(resources: Mapping[str, float], slots: Mapping[str, int]) -> None:
    """Raise if no worker of any group has these resources.

    Parameters
    ----------
    resources : mapping of str to float
        What a task requires.
    slots : mapping of str to int
        The group table: slots per worker, by tag.

    Raises
    ------
    UnknownTagError
        No group has a resource of that name.
    TagConflictError
        They are of two groups.
    SlotsExceededError
        They are more than a worker has.
    TypeError
        They are not amounts by name.
    """
    _check_amounts(resources)
    for tag in resources:
        if tag not in slots:
            raise UnknownTagError(tag, slots)
    if len(resources) > 1:
        raise TagConflictError(resources)
    for tag, need in resources.items():
        if need > slots[tag]:
            raise SlotsExceededError(tag, need, slots[tag])


def check_workers(
    wanted: Iterable[Any], resources: Mapping[str, float], workers: Mapping[str, Mapping[str, Any]]
) -> None:
    """Raise if none of the workers that a call names is connected and has its resources.

    Parameters
    ----------
    wanted : iterable
        Names, addresses and hosts, as Dask takes them.
    resources : mapping of str to float
        What the call requires.
    workers : mapping of str to mapping
        The connected workers, by address, as `distributed.Client.scheduler_info` returns them.

    Raises
    ------
    UnknownWorkerError
        None of them is connected, or none has the resources.

    Examples
    --------
    >>> workers = {"tcp://10.0.0.1:1": {"name": "gcam-1", "host": "10.0.0.1", "resources": {"gcam": 1}}}
    >>> check_workers(["gcam-1", "10.0.0.1"], {"gcam": 1}, workers)
    >>> check_workers(["gcam-1"], {"fair": 1}, workers)
    Traceback (most recent call last):
    ...
    scalable.errors.UnknownWorkerError: no worker named in workers= has {'fair': 1}: 'gcam-1'; leave out workers, ...
    """
    wanted = list(wanted)
    if any(":" in str(name) and "://" not in str(name) for name in wanted):
        return  # a host name and a port, which only the scheduler can resolve
    found = [
        facts
        for address, facts in workers.items()
        if {address, facts["host"], str(facts["name"])} & {str(name) for name in wanted}
    ]
    if not found:
        raise UnknownWorkerError(wanted, None)
    for facts in found:
        has = facts.get("resources") or {}
        if all(has.get(name, 0) >= need and name in has for name, need in resources.items()):
            return
    raise UnknownWorkerError(wanted, resources)


def workers_with_tag(
    tag: str, wanted: Iterable[Any] | None, workers: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    """Return the addresses of the workers with a tag, of all or of those that a call names.

    Parameters
    ----------
    tag : str
        The tag.
    wanted : iterable or None
        Names and addresses; None for all.
    workers : mapping of str to mapping
        The connected workers, as for `check_workers`.

    Raises
    ------
    UnknownWorkerError
        None of those that the call names has the tag.

    Examples
    --------
    >>> workers = {"tcp://10.0.0.1:1": {"name": "gcam-1", "resources": {"gcam": 1}}}
    >>> workers_with_tag("gcam", None, workers), workers_with_tag("fair", None, workers)
    (['tcp://10.0.0.1:1'], [])
    """
    found = {
        address: facts
        for address, facts in workers.items()
        if tag in (facts.get("resources") or {})
    }
    if wanted is None:
        return [*found]
    wanted = [wanted] if isinstance(wanted, str) else [*wanted]
    named = [a for a, facts in found.items() if a in wanted or facts["name"] in wanted]
    if not named:
        raise UnknownWorkerError(wanted, {tag: 1})
    return named
