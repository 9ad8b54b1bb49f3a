"""Exceptions of classes that the scheduler does not have, and of those that would end whoever gets them."""

from __future__ import annotations

import operator
import pickle
import pkgutil
from typing import Any, NoReturn

__all__ = [
    "in_one_line",
    "ordinary",
    "passable",
    "pickled_call",
    "raise_unreadable",
    "unpickled",
]


class _Imported:
    """Stands for an object of a module that only the reader of the pickle has."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __reduce__(self) -> Any:
        return pkgutil.resolve_name, (self._name,)


class _Call:
    """Stands for the result of a call that the reader of the pickle makes."""

    def __init__(self, function: Any, *args: Any) -> None:
        self._args = function, *args

    def __reduce__(self) -> Any:
        return operator.call, self._args


def unpickled(pickled: bytes) -> object:
    """Return a placeholder, for `pickled_call`, for an object that is pickled already."""
    return _Call(pickle.loads, pickled)


def pickled_call(name: str, *args: object) -> bytes:
    """Return a pickle that is read as the result of a call.

    Parameters
    ----------
    name : str
        The class or function, as ``module:name``. It is imported where the pickle is read.
    *args : object
        Its arguments.

    Examples
    --------
    >>> pickle.loads(pickled_call("fractions:Fraction", 3, 4))
    Fraction(3, 4)
    >>> pickle.loads(pickled_call("builtins:str", unpickled(pickle.dumps(OSError("no route")))))
    'no route'
    """
    return pickle.dumps(_Call(_Imported(name), *args))


def ordinary(error: BaseException, source: str = "the task") -> Exception:
    """Return an exception that can be passed on for what users' code has raised.

    `SystemExit` and `KeyboardInterrupt` end the event loop that they reach, and a coroutine cannot raise
    `StopIteration`.

    Parameters
    ----------
    error : BaseException
        What was raised.
    source : str
        What raised it.

    Examples
    --------
    >>> ordinary(SystemExit(3))
    RuntimeError('the task raised SystemExit: 3, which cannot be passed on; raise another exception')
    """
    name = type(error).__name__
    try:
        text = str(error)
    except BaseException:  # noqa: BLE001 - its class may raise anything there
        text = "its text cannot be shown"
    what = f"{name}: {text}" if text else name
    return RuntimeError(
        f"{source} raised {what}, which cannot be passed on; raise another exception"
    )


def passable(error: BaseException, source: str = "the task") -> Exception:
    """Return what users' code has raised, or an ordinary exception in its place, if it cannot be passed on.

    Parameters
    ----------
    error : BaseException
        What was raised.
    source : str
        What raised it.

    Examples
    --------
    >>> passable(ValueError("no data")), passable(KeyboardInterrupt())
    (ValueError('no data'), RuntimeError('the task raised KeyboardInterrupt, which cannot be passed on; ...'))
    """
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    return ordinary(error, source)


def raise_unreadable(error: BaseException) -> NoReturn:
    """Raise what unpickling a message has raised, or another exception, if that would be taken for one of the network.

    Examples
    --------
    >>> raise_unreadable(FileNotFoundError(2, "No such file or directory", "/data/x.nc"))
    Traceback (most recent call last):
    ...
    RuntimeError: unpickling it raised FileNotFoundError: [Errno 2] No such file or directory: '/data/x.nc'
    """
    failure = passable(error, "unpickling it")
    if isinstance(failure, (OSError, EOFError)):
        failure = RuntimeError(f"unpickling it raised {in_one_line(failure)}")
    raise failure


def in_one_line(error: BaseException) -> str:
    r"""Describe an error of pickling in one line; distributed's own includes the traceback of its cause.

    Examples
    --------
    >>> in_one_line(TypeError("Could not serialize\nTraceback …\nOSError: a handle\n"))
    'TypeError: Could not serialize: OSError: a handle'
    """
    lines = [type(error).__name__, *filter(None, str(error).splitlines())]
    return ": ".join(lines if len(lines) < 3 else (*lines[:2], lines[-1]))
