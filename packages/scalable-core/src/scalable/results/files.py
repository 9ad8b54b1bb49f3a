"""Functions of tasks whose files are checked: on this side of the wire."""

from __future__ import annotations

import inspect
import pickle
from collections.abc import Callable, Mapping
from typing import Any

from scalable.results.store.outputs import fields_of

__all__ = ["Checked", "check_fields"]


class Checked:
    """A function that fails if it does not write its outputs. It is pickled as what workers have.

    Parameters
    ----------
    task : str
        The task's name.
    patterns : dict of str to str
        The paths of its outputs, by name.
    func : callable
        The function.
    """

    def __init__(self, task: str, patterns: dict[str, str], func: Callable[..., Any]) -> None:
        self._task, self._patterns, self._func = task, patterns, func
        self.__name__ = getattr(func, "__name__", type(func).__name__)
        self.__wrapped__ = func

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Refuse to run here."""
        raise NotImplementedError(f"{self.__name__} runs on workers")

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        return self._task, sorted(self._patterns.items()), self._func

    def __reduce__(self) -> tuple[Any, ...]:
        from functools import partial

        return partial, (_Checked(), self._task, self._patterns, self._func)


class _Checked:
    """Stands for `scalable.results.store.outputs.checked` on workers."""

    def __reduce__(self) -> tuple[Any, ...]:
        return pickle.loads, (b"c_scalable_results.outputs\nchecked\n.",)


def check_fields(task: str, patterns: Mapping[str, str], func: Callable[..., Any]) -> None:
    """Raise if the path of an output names what is no argument of the function.

    Raises
    ------
    ValueError
        It does.
    """
    try:
        parameters = inspect.signature(func).parameters
    except (TypeError, ValueError):
        return
    for name, pattern in patterns.items():
        for field in fields_of(pattern):
            if field not in parameters:
                raise ValueError(
                    f"tasks.{task}.outputs.{name} is {pattern}, and {field!r} is no argument of the function; "
                    f"its arguments are: {', '.join(parameters) or 'none'}"
                )
