"""Paths with variables that only the job knows, such as ``$TMPDIR``. Pure functions."""

from __future__ import annotations

import re
import shlex

__all__ = ["check_variables", "expanded", "has_variables"]

_VARIABLE = re.compile(r"""\$(?:([A-Za-z_]\w*)|\{([A-Za-z_]\w*)(?::-([^{}$`"\\]*))?\})""")


def has_variables(path: str) -> bool:
    """Return whether a path is known in the job alone.

    Examples
    --------
    >>> has_variables("$TMPDIR/x"), has_variables("${TMPDIR:-/tmp}"), has_variables("/tmp")
    (True, True, False)
    """
    return _VARIABLE.search(path) is not None


def check_variables(path: str) -> str:
    """Return a path, if a job can expand what is in it.

    Raises
    ------
    ValueError
        It has other syntax of a shell, which would become part of the name of a directory.

    Examples
    --------
    >>> check_variables("/local/$USER")
    '/local/$USER'
    >>> check_variables("$(mktemp -d)")
    Traceback (most recent call last):
    ...
    ValueError: may have variables such as $TMPDIR or ${TMPDIR:-/tmp}, and no other syntax of a shell
    """
    if re.search(r"[$`]", _VARIABLE.sub("", path)):
        raise ValueError(
            "may have variables such as $TMPDIR or ${TMPDIR:-/tmp}, and no other syntax of a shell"
        )
    return path


def expanded(path: str) -> str:
    r"""Return a path for a shell that expands the variables in it, each of which must be set, and nothing else.

    Examples
    --------
    >>> expanded("$TMPDIR/it's"), expanded("/local/${USER}/x"), expanded("${TMPDIR:-/my tmp}")
    ('"${TMPDIR:?}"\'/it\'"\'"\'s\'', '/local/"${USER:?}"/x', '"${TMPDIR:-/my tmp}"')
    """
    words, end = [], 0
    for found in _VARIABLE.finditer(path):
        otherwise = "?" if found[3] is None else f"-{found[3]}"
        words += [path[end : found.start()], f'"${{{found[1] or found[2]}:{otherwise}}}"']
        end = found.end()
    return "".join(
        word if number % 2 else shlex.quote(word) if word else ""
        for number, word in enumerate([*words, path[end:]])
    )
