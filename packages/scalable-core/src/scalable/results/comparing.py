"""What the names of two results differ in. Pure functions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import unified_diff
from typing import Any

__all__ = ["Difference", "compare"]


@dataclass(frozen=True)
class Difference:
    """One thing that two results differ in.

    Parameters
    ----------
    what : str
        What it is: ``code``, ``image``, ``version``, ``ignore`` or ``argument``.
    name : str
        Which one, if there are several.
    before, after : str
        How it was and how it is; empty where there was or is none. Of code and arguments, only digests are known.
    diff : str
        The difference of the sources, if they are known.
    """

    what: str
    name: str
    before: str
    after: str
    diff: str = ""

    def __str__(self) -> str:
        lead = f"{self.what} {self.name}".strip()
        if not self.before:
            return f"{lead} is new"
        if not self.after:
            return f"{lead} is gone"
        if self.what in ("code", "argument"):
            return f"{lead} has changed"
        return f"{lead} was {self.before} and is {self.after}"


def compare(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Difference]:
    """Return what two results differ in.

    Parameters
    ----------
    before, after : mapping
        What each was computed from: the description of its version, with the ``arguments`` of its header.

    Examples
    --------
    >>> one = {"code": {"f": "1"}, "image": "gcam:7", "arguments": {"x": "a"}}
    >>> for difference in compare(one, {**one, "code": {"f": "2", "g": "3"}, "image": "gcam:8"}):
    ...     print(difference)
    code f has changed
    code g is new
    image was gcam:7 and is gcam:8
    """
    return [*_compare_code(before, after), *_compare_rest(before, after)]


def _compare_code(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Difference]:
    sources = before.get("sources") or {}, after.get("sources") or {}
    for name, old, new in _pairs(before.get("code"), after.get("code")):
        then, now = (str(each.get(name, "")).splitlines(keepends=True) for each in sources)
        diff = "".join(
            line if line.endswith("\n") else f"{line}\n"
            for line in unified_diff(then, now, f"{name} (before)", f"{name} (after)")
        )
        yield Difference("code", name, old, new, diff)


def _compare_rest(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Difference]:
    for what, key in (("image", "image"), ("version", "versions"), ("ignore", "ignored")):
        old, new = (_text(each.get(key)) for each in (before, after))
        if old != new:
            yield Difference(what, "", old, new)
    for name, old, new in _pairs(before.get("arguments"), after.get("arguments")):
        yield Difference("argument", name, old, new)


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value or "")


def _pairs(before: Any, after: Any) -> Iterator[tuple[str, str, str]]:
    """Yield the items that differ: name, value before, value after."""
    old, new = before or {}, after or {}
    for name in sorted({*old, *new}):
        if old.get(name) != new.get(name):
            yield name, str(old.get(name) or ""), str(new.get(name) or "")
