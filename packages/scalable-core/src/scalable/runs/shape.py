"""What the values of a record must be for commands to read it: earlier versions may lack some, later ones have more.

A record that does not have this shape was cut, edited, or written by a version to come. Pure functions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import datetime
from typing import Any, NamedTuple

__all__ = ["RECORD", "TASK", "WORKER", "find_fault"]


class _Kind(NamedTuple):
    """A kind of value: what it is called, and how it is recognised."""

    name: str
    fits: Callable[[Any], bool]


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _is_time(value: Any) -> bool:
    try:
        return isinstance(value, str) and datetime.fromisoformat(value) is not None
    except ValueError:
        return False


def _optional(kind: _Kind) -> _Kind:
    return _Kind(f"{kind.name} or null", lambda value: value is None or kind.fits(value))


_TEXT = _Kind("a text", lambda value: isinstance(value, str))
_PATH = _Kind("a path", lambda value: isinstance(value, str) and "\0" not in value)
_COUNT = _Kind("a whole number", lambda value: type(value) is int)
_NUMBER = _Kind("a number", _is_number)
_TIME = _Kind("a time", _is_time)
_MAPPING = _Kind("a mapping", lambda value: isinstance(value, dict))
_LIST = _Kind("a list", lambda value: isinstance(value, list))

_EVENT = {"time": _TIME, "group": _optional(_TEXT), "text": _TEXT}
_KIND_OF_TASK = {
    **{"name": _TEXT, "component": _optional(_TEXT)},
    **dict.fromkeys(("done", "failed", "left", "cancelled"), _COUNT),
}
_FAILURES = {"task": _TEXT, "error": _TEXT, "count": _COUNT, "example": _TEXT}
_COST = {
    **{"currency": _TEXT, "estimated_hourly": _optional(_TEXT)},
    **{"actual": _optional(_TEXT), "unknown": _LIST},
}

RECORD: dict[str, Any] = {
    **{"id": _TEXT, "status": _TEXT, "started": _TIME, "ended": _optional(_TIME)},
    **{"target": _TEXT, "provider": _TEXT},
    "manifest": {"path?": _PATH, "document?": _MAPPING},
    "directory?": _PATH,
    "plan?": {"scale_plan?": {"workers_by_tag?": _MAPPING, "resources_by_tag?": _MAPPING}},
    "workflow?": {"path?": _PATH, "arguments?": [_TEXT]},
    "process?": {"identity?": {"started?": _NUMBER}},
    **{"versions?": _MAPPING, "packages?": _MAPPING},
    "events?": [_EVENT],
    "summary?": {
        **{"tasks?": [_KIND_OF_TASK], "failures?": [_FAILURES]},
        **{"lost?": _MAPPING, "seconds?": _NUMBER, "worker_hours?": {"*": _NUMBER}},
        "starts?": {"*": {"queue": _NUMBER, "boot": _NUMBER}},
        "cost?": _COST,
    },
}
"""The shape of ``record.json``. ``*`` is any key. What ends in a question mark may be missing; a single value, null."""

_TIMES = dict.fromkeys(("started?", "ended?"), _NUMBER)
TASK: dict[str, Any] = {
    **{"task": _TEXT, "component?": _TEXT, "worker?": _TEXT},
    **{"ready?": _NUMBER, **_TIMES, "status?": _TEXT},
    **{"cpu_seconds?": _NUMBER, "peak_memory?": _NUMBER},
}
"""The shape of a row of ``tasks.jsonl``."""

WORKER: dict[str, Any] = {
    **{"worker": _TEXT, "component?": _TEXT, "launched": _NUMBER},
    **{**_TIMES, "joined?": _NUMBER, "why?": _TEXT},
}
"""The shape of a row of ``workers.jsonl``."""


def find_fault(value: Any, shape: Any, path: str = "") -> str:
    """Return what of a value does not have a shape; empty if all of it has.

    Examples
    --------
    >>> find_fault({"task": "f-1", "started": 5.0, "more": []}, TASK)
    ''
    >>> find_fault({"task": "f-1", "started": "noon"}, TASK)
    'started is not a number'
    >>> find_fault({"tasks": [{"name": 3}]}, {"tasks": [{"name": _TEXT}]})
    'tasks.0.name is not a text'
    """
    if isinstance(shape, _Kind):
        return "" if shape.fits(value) else f"{path} is not {shape.name}"
    if isinstance(shape, list):
        if not isinstance(value, list):
            return f"{path} is not a list"
        parts = [(str(number), each, shape[0]) for number, each in enumerate(value)]
    else:
        if not isinstance(value, dict):
            return f"{path or 'it'} is not a mapping"
        parts = []
        for name, of in shape.items():
            key = name.removesuffix("?")
            if name == "*":
                parts += [(str(each), value[each], of) for each in value]
            elif key in value:
                of_one = isinstance(of, _Kind) and of not in (_MAPPING, _LIST)
                if value[key] is not None or key == name or not of_one:
                    parts.append((key, value[key], of))
            elif key == name:
                return f"{f'{path}.' if path else ''}{key} is missing"
    found = (find_fault(each, of, f"{path}.{key}" if path else key) for key, each, of in parts)
    return next(filter(None, found), "")
