"""The names of results: what a call is computed from, as digests. Pure functions."""

from __future__ import annotations

import functools
import hashlib
import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from scalable.results.content import Content, NoContentError
from scalable.results.files import check_fields
from scalable.results.marking import MARK

__all__ = ["NamedCall", "Rule", "TaskRule", "name_calls", "rule_for"]

NAMES = 1
"""The version of the rules by which names are made. Another one finds no earlier result."""


@dataclass(frozen=True)
class TaskRule:
    """What the manifest says of a task whose results are kept.

    Parameters
    ----------
    image : str, optional
        The image of its component.
    version : str
        The user's own version of what it computes.
    ignore : tuple of str
        Arguments on which the result does not depend.
    outputs : tuple of (str, str)
        The files that it writes: names and paths.
    """

    image: str | None = None
    version: str = ""
    ignore: tuple[str, ...] = ()
    outputs: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Rule:
    """How the results of a function are kept.

    Parameters
    ----------
    label : str
        The task's name, or the function's.
    image : str, optional
        The image of its component.
    versions : tuple of str
        The user's own versions.
    ignore : tuple of str
        Arguments that do not count.
    outputs : tuple of (str, str)
        The files that the function writes: names and paths.
    """

    label: str
    image: str | None
    versions: tuple[str, ...]
    ignore: tuple[str, ...]
    outputs: tuple[tuple[str, str], ...] = ()


class NamedCall(NamedTuple):
    """One call, and what it is computed from.

    Parameters
    ----------
    name : str or None
        The name of its result; None if its arguments or its function have no content that could be compared.
    labels : tuple of str
        The names of the arguments that count.
    digests : tuple of str
        Their digests.
    reason : str
        Why there is no name.
    """

    name: str | None
    labels: tuple[str, ...] = ()
    digests: tuple[str, ...] = ()
    reason: str = ""

    @property
    def arguments(self) -> dict[str, str]:
        """What the store says of the arguments."""
        return {name: each[:16] for name, each in zip(self.labels, self.digests, strict=True)}


def rule_for(
    func: Callable[..., Any], task: str | None, tasks: Mapping[str, TaskRule], image: str | None
) -> Rule | None:
    """Return how the results of a call are kept, or None if they are not.

    Parameters
    ----------
    func : callable
        The function.
    task : str or None
        The manifest task that it is called for.
    tasks : mapping of str to TaskRule
        The manifest tasks whose results are kept.
    image : str or None
        The image of the component that it is called for.

    Examples
    --------
    >>> rule_for(abs, "simulate", {"simulate": TaskRule("gcam:8", "2")}, None)
    Rule(label='simulate', image='gcam:8', versions=('2',), ignore=(), outputs=())
    >>> rule_for(abs, "analyse", {"simulate": TaskRule()}, None) is None
    True
    """
    function = func
    while isinstance(function, functools.partial):
        function = function.func
    marked = getattr(function, MARK, None)
    of_task = tasks.get(task) if task is not None else None
    if marked is None and of_task is None:
        return None
    label = str(task or getattr(function, "__name__", type(function).__name__))
    both = (of_task.version if of_task else "", marked["version"] if marked else "")
    ignore = {*(of_task.ignore if of_task else ()), *(marked["ignore"] if marked else ())}
    return Rule(
        re.sub(r"[^A-Za-z0-9_-]", "_", label),
        of_task.image if of_task else image,
        tuple(version for version in both if version),
        tuple(sorted(ignore)),
        of_task.outputs if of_task else (),
    )


def name_calls(
    rule: Rule,
    func: Callable[..., Any],
    calls: Iterable[Sequence[Any]],
    kwargs: Mapping[str, Any],
    name_future: Callable[[Any], str | None] = lambda future: None,
    *,
    edited: str = "",
) -> tuple[list[NamedCall], dict[str, Any]]:
    """Return the names of calls, and what is said of their function.

    Parameters
    ----------
    rule : Rule
        How their results are kept.
    func : callable
        The function.
    calls : iterable of sequences
        The positional arguments of each call.
    kwargs : mapping
        The keyword arguments of all of them.
    name_future : callable
        Returns the name under which the result of a Dask future is kept, or None.
    edited : str
        Identifies what the user has changed in modules since this process has imported them: then what runs on workers
        is not what this process sees.

    Raises
    ------
    ValueError
        An argument to ignore is none of the function's.

    Examples
    --------
    >>> (one, same), code = name_calls(Rule("abs", None, (), ()), abs, [(-1,), (-1,)], {})
    >>> one.name == same.name, one.name.split("/")[0]
    (True, 'abs')
    """
    calls = list(calls)
    content = Content(name_future)
    signature = _signature(func)
    _check_ignored(rule, func, signature)
    try:
        code = content.digest(func).hex()
    except NoContentError as error:
        advice = "; make it inside of the function" if error.where else ""
        return [NamedCall(None, reason=f"{error}{advice}") for _ in calls], {}
    counts = (str(NAMES), code, edited, rule.image or "", *rule.versions, "ignore", *rule.ignore)
    if rule.outputs:
        counts += ("outputs", *(part for output in rule.outputs for part in output))
        check_fields(rule.label, dict(rule.outputs), func)
    version = _combine(*counts)[:16]
    prefix = f"{rule.label}/{version}/"
    arguments = _Arguments(Content(name_future), signature, kwargs, rule.ignore)
    named = []
    for args in calls:
        try:
            digest, labels, digests = arguments.digest(args)
        except NoContentError as error:
            named.append(NamedCall(None, reason=str(error)))
        else:
            named.append(NamedCall(prefix + digest, labels, digests))
    about = {
        "task": rule.label,
        "function": getattr(func, "__qualname__", type(func).__qualname__),
        "image": rule.image,
        "versions": list(rule.versions),
        "ignored": list(rule.ignore),
        "outputs": dict(rule.outputs),
        "code": dict(sorted(content.parts.items())),
        "sources": dict(sorted(content.sources.items())),
    }
    return named, about


class _Arguments:
    """Digests of the arguments of calls, which have the keyword arguments in common.

    Parameters
    ----------
    content : Content
        Computes the digests of values.
    signature : Signature or None
        That of the function.
    kwargs : mapping
        The keyword arguments.
    ignore : iterable of str
        Names of arguments that do not count.
    """

    def __init__(
        self,
        content: Content,
        signature: inspect.Signature | None,
        kwargs: Mapping[str, Any],
        ignore: Iterable[str],
    ) -> None:
        self._content, self._signature, self._kwargs = content, signature, kwargs
        self._ignore = frozenset(ignore)
        self._plain: dict[int, _Plain | None] = {}
        self._known: dict[str, str] = {}

    def digest(self, args: Sequence[Any]) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
        """Return the digest of all arguments of a call, their names, and the digest of each.

        Raises
        ------
        NoContentError
            One has no content that could be compared.
        """
        count = len(args)
        if count not in self._plain:
            self._plain[count] = self._prepare(count)
        plain = self._plain[count]
        if plain is None:
            digests = {
                name: self._digest_known(name, value)
                for name, value in _bind(self._signature, args, self._kwargs)
                if name not in self._ignore
            }
            return _digest_text(_text_of(digests)), (*digests,), (*digests.values(),)
        own = [self._digest_one(name, args[at]) for at, name in plain.own]
        digest = _digest_text(plain.template.format(*own))
        return digest, plain.labels, (*own, *plain.shared)

    def _digest_one(self, name: str, value: Any) -> str:
        try:
            return self._content.digest(value).hex()
        except NoContentError as error:
            what = f"of argument {name!r}," if error.where else f"argument {name!r} is"
            raise NoContentError(f"{what} {error}; see `ignore`") from None

    def _digest_known(self, name: str, value: Any) -> str:
        """Return the digest of an argument, that of a keyword argument of all calls from the first of them."""
        if value is not self._kwargs.get(name, self):
            return self._digest_one(name, value)
        if name not in self._known:
            self._known[name] = self._digest_one(name, value)
        return self._known[name]

    def _prepare(self, count: int) -> _Plain | None:
        """Return what calls with so many positional arguments have in common; None if each must be bound by itself."""
        parameters = {} if self._signature is None else self._signature.parameters
        kinds = [each.kind for each in parameters.values()]
        positional = kinds.count(inspect.Parameter.POSITIONAL_OR_KEYWORD)
        plain = positional + kinds.count(inspect.Parameter.KEYWORD_ONLY) == len(kinds)
        names = [*parameters]
        given = {
            name: each.default
            for name, each in parameters.items()
            if each.default is not inspect.Parameter.empty
        } | dict(self._kwargs)
        if not plain or count > positional or not self._kwargs.keys().isdisjoint(names[:count]):
            return None
        if {*given, *names[:count]} != {*names}:
            return None
        shared = {
            name: self._digest_one(name, given[name])
            for name in names[count:]
            if name not in self._ignore
        }
        own = [(at, name) for at, name in enumerate(names[:count]) if name not in self._ignore]
        slots = {name: f"{{{slot}}}" for slot, (_, name) in enumerate(own)}
        return _Plain(own, _text_of(shared | slots), (*slots, *shared), (*shared.values(),))


class _Plain(NamedTuple):
    """What calls with the same number of arguments have in common.

    Parameters
    ----------
    own : list of (int, str)
        The positional arguments that count: their positions and names.
    template : str
        The text of `_text_of`, with fields for the digests of those.
    labels : tuple of str
        The names of all arguments that count, those first.
    shared : tuple of str
        The digests of the others.
    """

    own: list[tuple[int, str]]
    template: str
    labels: tuple[str, ...]
    shared: tuple[str, ...]


def _digest_text(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _text_of(digests: Mapping[str, str]) -> str:
    """Return digests with the names of their arguments as one text, in the order of the names."""
    return "\0".join(part for item in sorted(digests.items()) for part in item)


def _combine(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _signature(func: Callable[..., Any]) -> inspect.Signature | None:
    try:
        return inspect.signature(func)
    except (TypeError, ValueError):
        return None


def _check_ignored(
    rule: Rule, func: Callable[..., Any], signature: inspect.Signature | None
) -> None:
    parameters = signature.parameters if signature else {}
    if any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values()):
        return
    for name in rule.ignore:
        if name not in parameters:
            raise ValueError(
                f"ignore names {name!r}, which is no argument of {rule.label}; "
                f"its arguments are: {', '.join(parameters) or 'not known'}"
            )


def _bind(
    signature: inspect.Signature | None, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Iterator[tuple[str, Any]]:
    """Yield the arguments of a call by name, the defaults among them, so that each way to write a call is the same.

    Examples
    --------
    >>> def f(x, *more, y=2, **others): ...
    >>> [*_bind(inspect.signature(f), (1, 5), {"z": 3})]
    [('x', 1), ('*more', (5,)), ('y', 2), ('z', 3)]
    >>> [*_bind(None, (1,), {"z": 3})]
    [('0', 1), ('z', 3)]
    """
    try:
        bound = signature.bind(*args, **kwargs) if signature else None
    except TypeError:  # the call will fail
        bound = None
    if bound is None:
        yield from ((str(number), value) for number, value in enumerate(args))
        yield from sorted(kwargs.items())
        return
    bound.apply_defaults()
    for name, value in bound.arguments.items():
        kind = bound.signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_KEYWORD:
            for key, each in sorted(value.items()):
                # Of the same name as an argument that is only positional.
                yield f"**{key}" if key in bound.arguments else key, each
        elif kind is inspect.Parameter.VAR_POSITIONAL:
            yield f"*{name}", value
        else:
            yield name, value
