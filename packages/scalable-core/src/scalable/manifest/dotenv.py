"""The file ``.env`` beside a manifest: values for ``${VAR}`` that the environment does not have.

Lines of ``NAME=VALUE``, as a shell would read them, without expansion: an ``export`` before the name, quotes around the
value, and comments are allowed. Nothing of it reaches the environment of this process or of workers by itself.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Mapping
from pathlib import Path

from scalable.manifest.document.limits import MAX_BYTES
from scalable.manifest.errors import ManifestParseError
from scalable.manifest.files import read_file
from scalable.manifest.issues import ValidationIssue

__all__ = ["NAME", "environment_beside", "parse_dotenv"]

NAME = ".env"

_LINE = re.compile(
    r"""
    \s* (?:export\s+)? (?P<name> [A-Za-z_][A-Za-z0-9_]* ) \s* = \s*
    (?: '(?P<literal> [^']* )' | "(?P<quoted> (?: [^"\\] | \\. )* )" | (?P<plain> [^\s'"#] .*? | ) )
    \s* (?: (?<=\s) \# .* )?
    """,
    re.VERBOSE,
)


def parse_dotenv(text: str) -> tuple[dict[str, str], list[int]]:
    r"""Return the variables of a text, and the numbers of the lines that are none.

    Examples
    --------
    >>> parse_dotenv("# mine\nexport ACCOUNT=abc123  # at work\nTOKEN='a # b'\nNOTE=\"two \\\"words\\\"\"\nEMPTY=\n")
    ({'ACCOUNT': 'abc123', 'TOKEN': 'a # b', 'NOTE': 'two "words"', 'EMPTY': ''}, [])
    >>> parse_dotenv("just words\nA='open")
    ({}, [1, 2])
    """
    found, wrong = {}, []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            wrong.append(number)
        elif match["quoted"] is not None:
            found[match["name"]] = re.sub(r"\\(.)", r"\1", match["quoted"])
        else:
            found[match["name"]] = match["literal"] or match["plain"] or ""
    return found, wrong


def environment_beside(manifest: str) -> Mapping[str, str]:
    """Return the environment of the process, over the variables of the ``.env`` beside a manifest.

    Raises
    ------
    ManifestParseError
        The file cannot be read, or has a line that is no variable.
    """
    path = Path(manifest).parent / NAME
    if path.is_dir() or not path.exists():  # an environment of Python's, for example
        return os.environ
    try:
        found, wrong = parse_dotenv(_read(path).decode("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        issue = ValidationIssue("", f"cannot be read: {why}", "E_ENV_FILE", file=str(path))
        raise ManifestParseError([issue]) from None
    if wrong:
        message = "is no variable; write NAME=VALUE, with quotes around a value with blanks or #"
        raise ManifestParseError(
            [ValidationIssue("", message, "E_ENV_FILE", file=str(path), line=n) for n in wrong]
        )
    return {**found, **os.environ}


def _read(path: Path) -> bytes:
    content = read_file(path, MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        message = f"it is larger than {MAX_BYTES // 10**6} MB"
        raise OSError(errno.EFBIG, message)
    return content
