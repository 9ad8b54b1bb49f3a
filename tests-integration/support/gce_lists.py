"""Lists of Compute Engine: which items a filter selects, and their pages."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from gce_rules import require

FIELDS = ("name", "status", "zone", "operationGroupId", "operationType", "targetLink", "targetId")
"""The fields that tests know in filters, beside labels."""

_TERM = re.compile(
    rf'\s*\(?\s*({"|".join(FIELDS)}|labels\.[-_a-z0-9]+)\s*(=|!=|:)\s*("[^"]*"|[^\s"()]+)\s*\)?\s*'
)


def select(items: Iterable[Mapping[str, Any]], expression: str) -> list[Mapping[str, Any]]:
    """Return the items that a filter selects: terms, each in parentheses or not, joined by ``AND``.

    Examples
    --------
    >>> items = [{"name": "a", "labels": {"run": "1"}}, {"name": "b"}]
    >>> [item["name"] for item in select(items, 'labels.run="1"')]
    ['a']
    >>> [item["name"] for item in select(items, "(labels.run:*) AND (name != a)")]
    []
    """
    if not expression:
        return [*items]
    terms = [_TERM.fullmatch(part) for part in re.split(r"\s+AND\s+|(?<=\))\s*(?=\()", expression)]
    require(all(terms), "filter", expression, "Invalid list filter expression.")
    return [item for item in items if all(_matches(item, term) for term in terms if term)]


def _matches(item: Mapping[str, Any], term: re.Match[str]) -> bool:
    name, operator, value = term[1], term[2], term[3].strip('"')
    labels = item.get("labels", {})
    has = labels.get(name.removeprefix("labels.")) if name.startswith("labels.") else item.get(name)
    if operator == ":":
        return has is not None and (value == "*" or value in has)
    return (has == value) == (operator == "=")


def page(items: Iterable[Mapping[str, Any]], query: Mapping[str, str], most: int) -> dict[str, Any]:
    """Return the page of a list that a request asks for.

    Parameters
    ----------
    items : iterable of mappings
        The whole list.
    query : mapping of str to str
        Of the request: ``filter``, ``maxResults``, ``pageToken``.
    most : int
        The number of items in one page, which Compute Engine may choose to be smaller than it was asked for.
    """
    wanted = query.get("maxResults", "500")
    require(wanted.isdecimal() and 1 <= int(wanted) <= 500, "maxResults", wanted, "In [1, 500].")
    size = min(int(wanted), most)
    found = sorted(select(items, query.get("filter", "")), key=lambda item: str(item["name"]))
    rest = [item for item in found if item["name"] > query.get("pageToken", "")]
    answer: dict[str, Any] = {"items": rest[:size]}
    if len(rest) > size:
        answer["nextPageToken"] = rest[size - 1]["name"]
    return answer
