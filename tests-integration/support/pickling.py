"""Functions that are pickled by value, for workers that cannot import the test's module."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

F = TypeVar("F", bound=Callable[..., object])


def by_value(function: F) -> F:
    """Make a function be pickled by value, as distributed does if its module cannot be imported."""
    function.__module__ = "__main__"
    return function
