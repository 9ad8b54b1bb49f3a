"""`cached`: functions whose results are kept, wherever they are called."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar, overload

__all__ = ["MARK", "cached"]

MARK = "__scalable_cached__"
"""The attribute of a function whose results are kept. Its values are plain, because workers may lack our packages."""

F = TypeVar("F", bound=Callable[..., Any])


@overload
def cached(func: F, /) -> F: ...


@overload
def cached(*, version: str | int = "", ignore: Iterable[str] = ()) -> Callable[[F], F]: ...


def cached(func: Any = None, /, *, version: str | int = "", ignore: Iterable[str] = ()) -> Any:
    """Mark a function whose results are to be kept when a client submits it, and return it.

    It stays an ordinary function: called directly, it runs.

    Parameters
    ----------
    func : callable
        The function.
    version : str or int
        A change of it makes earlier results no longer count. For what the function's source does not show, such as a
        program that it runs or a file that it reads.
    ignore : iterable of str
        Names of arguments on which the result does not depend.

    Examples
    --------
    >>> @cached(version=2, ignore=["verbose"])
    ... def simulate(member, verbose=False):
    ...     return member**2
    >>> simulate(3)
    9
    """
    ignored = [ignore] if isinstance(ignore, str) else [*ignore]

    def mark(func: Any) -> Any:
        if not callable(func):
            raise TypeError(f"@cached marks functions, and {func!r} is none")
        try:
            setattr(func, MARK, {"version": str(version), "ignore": ignored})
        except (AttributeError, TypeError):
            raise TypeError(
                f"@cached cannot mark {func!r}; call it in a function of yours"
            ) from None
        return func

    return mark if func is None else mark(func)
