"""Functions of tests that must run where the test's module cannot be imported."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

F = TypeVar("F", bound=Callable[..., object])


def by_value(function: F) -> F:
    """Let a function be pickled whole: distributed does so with what belongs to no importable module."""
    function.__module__ = "__main__"
    return function
