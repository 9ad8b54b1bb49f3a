"""Texts without the values of variables, however these are spelled.

A value is found as it is, and as ``repr``, JSON, YAML, HTML, URLs, shells and base 64 write it, also one inside the
other. So are parts of it that are secrets by themselves: the password of a URL, what ``password=`` or a key of that
kind names, a line of several.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from itertools import groupby
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

__all__ = ["redact"]

_MIN_VALUE, _MIN_LINE, _MIN_USER, _MIN_ENCODED = 4, 8, 16, 8
"""Characters below which a value, a line of a value, a user name and what base 64 makes of a value occur by chance."""

_NAMED = re.compile(
    r"""(?ix) (?: pass (?:word|wd|phrase)? | pwd | secret | token | key | credentials? | sig (?:nature)? | auth )
    ["']? \s* [=:] \s* ["']? (?P<value> [^\s"';&,}]{4,} )"""
)


def redact(text: str, variables: Mapping[str, str]) -> str:
    r"""Return a text with ``${NAME}`` wherever it shows the value of a variable, or a part that is a secret.

    Parameters
    ----------
    text : str
        Any text.
    variables : mapping of str to str
        Values by name. Those of less than four characters stay: they are not secrets, and occur by chance.

    Examples
    --------
    >>> redact("KeyError: 'p/w\\'d'; at https://u:p%2fw%27d@host/", {"TOKEN": "p/w'd"})
    "KeyError: '${TOKEN}'; at https://u:${TOKEN}@host/"
    >>> redact("Authorization: Basic dXNlcjpodW50ZXIyaHVudGVyMg==", {"TOKEN": "hunter2hunter2"})
    'Authorization: Basic dXNlcjp${TOKEN}g=='
    >>> redact("no user u with hunter2", {"URL": "postgresql://u:hunter2@host/db"})
    'no user u with ${URL}'
    """
    # A look for what all spellings share is much faster than a search for the spellings.
    there = tuple(each for each in _spellings(tuple(variables.items())) if each.shared in text)
    if not there:
        return text
    return _together(there).sub(
        lambda match: f"${{{there[(match.lastindex or 1) - 1].name}}}", text
    )


class _Spellings(NamedTuple):
    """A secret: the variable it is of, what stands in each of its spellings, and a pattern of all of them."""

    name: str
    shared: str
    pattern: str


@lru_cache(maxsize=256)
def _together(found: tuple[_Spellings, ...]) -> re.Pattern[str]:
    return re.compile("|".join(f"({each.pattern})" for each in found))


@lru_cache(maxsize=64)
def _spellings(variables: tuple[tuple[str, str], ...]) -> tuple[_Spellings, ...]:
    values = {value: name for name, value in variables if len(value.strip()) >= _MIN_VALUE}
    parts = {part: name for value, name in values.items() for part in _parts(value)}
    secrets = parts | values
    encoded = {code: name for secret, name in secrets.items() for code in _in_base64(secret)}
    # The longest first, because a value may contain another one.
    every = sorted({**encoded, **secrets}.items(), key=lambda item: -len(item[0]))
    return tuple(_Spellings(name, _shared(secret), _pattern(secret)) for secret, name in every)


# -- What of a value is a secret


def _parts(value: str) -> set[str]:
    r"""Return what of a value is a secret by itself.

    Examples
    --------
    >>> sorted(_parts("https://u:p%40ssword@host/?sig=abcdef&v=2021-10-04"))
    ['abcdef', 'p%40ssword', 'p@ssword']
    >>> sorted(_parts("host=db password=hunter2 user=anna"))
    ['hunter2']
    >>> sorted(_parts('{"type": "service_account", "private_key": "-----BEGIN-----\\nMIIEvgIBADAN\\n"}'))
    ['-----BEGIN-----\nMIIEvgIBADAN', '-----BEGIN-----\\nMIIEvgIBADAN\\n', 'MIIEvgIBADAN']
    """
    secrets = {value.strip(), *(match["value"] for match in _NAMED.finditer(value))}
    secrets |= _of_url(value) | set(_of_json(value))
    lines = {line.strip() for secret in secrets if "\n" in secret for line in secret.splitlines()}
    secrets |= {each for each in lines if len(each) >= _MIN_LINE and not each.startswith("--")}
    return {each for each in secrets - {value} if len(each) >= _MIN_VALUE}


def _of_url(value: str) -> set[str]:
    try:
        found = urlsplit(value)
        user, password = found.username or "", found.password
    except ValueError:
        return set()
    if password is None:  # as in https://TOKEN@host/
        return {user, unquote(user)} if len(user) >= _MIN_USER else set()
    return {password, unquote(password)}


def _of_json(value: str) -> Iterator[str]:
    if not value.lstrip().startswith(("{", "[")):
        return
    try:
        waiting: list[tuple[str, Any]] = [("", json.loads(value))]
    except (ValueError, RecursionError):
        return
    while waiting:
        key, each = waiting.pop()
        if isinstance(each, dict):
            waiting += each.items()
        elif isinstance(each, list):
            waiting += ((key, inner) for inner in each)
        elif isinstance(each, str) and _NAMED.fullmatch(f"{key[-16:].rpartition('_')[2]}=xxxx"):
            yield each.strip()


def _in_base64(secret: str) -> Iterator[str]:
    """Yield what base 64 makes of a secret wherever it stands in a text, without what depends on its neighbours.

    Examples
    --------
    >>> list(_in_base64("hunter2"))
    ['aHVudGVyM', 'h1bnRlcj', 'odW50ZXIy']
    """
    content = secret.encode(errors="surrogatepass")
    for before in range(3):
        first, last = -(-before * 8 // 6), (before + len(content)) * 8 // 6
        code = base64.b64encode(bytes(before) + content + b"\0\0").decode()[first:last]
        if len(code) >= _MIN_ENCODED:
            yield from {code, code.replace("+", "-").replace("/", "_")}


# -- How a secret is spelled


def _shared(secret: str) -> str:
    """Return the longest part of a secret that no spelling changes.

    Examples
    --------
    >>> _shared("p@ss/w'rd99")
    'rd99'
    """
    return max(re.findall("[A-Za-z0-9]+", secret), key=len, default="")


def _pattern(secret: str) -> str:
    """Return a regular expression of all spellings of a secret."""
    runs = (
        (same, len(list(run)))
        for same, run in groupby(" " if each in _SPACES else each for each in secret)
    )
    return "".join(_spelled(same, count) for same, count in runs)


_ESCAPE = r"\\{1,8}"  # several, if a text with escapes is escaped again
_PERCENT = r"%(?:25){0,3}"
_AMPERSAND = r"&(?:amp;){0,3}"
_FOLD = r"(?:\\\r?\n[ \t]*)?"  # YAML may break a line behind an escape
_TWICE = "'\"%${}"
"""What some languages double: YAML, CSV, format strings, configuration files."""

_SPACES = " \t\n\r\f\v"

_WHITE = (
    r"(?:(?:\s|\+|" + _ESCAPE + r"(?:[nrtvf\s]|x0[9a-dA-D]|x20|u000[9a-dA-D]|u0020)|"
    rf"{_PERCENT}(?:0[9a-dA-D]|20)|{_AMPERSAND}#(?:0*(?:9|1[0-3]|32)|[xX]0*(?:[9a-dA-D]|20));)"
    r"{1,200}(?:['\"]\s{1,200}['\"])?)"  # lines may be joined, indented, or each in quotes
)


@lru_cache(maxsize=1024)
def _spelled(character: str, count: int) -> str:
    """Return a regular expression of all spellings of a character that is there `count` times, one after the other."""
    if character.isascii() and character.isalnum():
        return character * count
    if character == " ":
        return _WHITE
    import html.entities  # here, because few texts show a secret

    code = ord(character)
    html_names = [
        n for n, text in html.entities.html5.items() if text == character and n[-1] == ";"
    ]
    ways = [
        rf"{_AMPERSAND}(?:#0*{code}|#[xX]0*(?i:{code:x})|{'|'.join(n[:-1] for n in html_names) or '#'});",
        *(_bytes_of(character)),
        *(rf"{_ESCAPE}(?i:{each}){_FOLD}" for each in _escapes(character)),
    ]
    if character == "\\":
        return rf"(?:\\|{'|'.join(ways)}){{{count},{count * 8}}}"
    literal = re.escape(character)
    if character == "'":
        ways += [r"'\\{1,8}''", "'\"'\"'"]  # in a shell
    ways += [rf"{_ESCAPE}{literal}{_FOLD}", literal]
    at_most = count * 2 if character in _TWICE else count
    return rf"(?:{'|'.join(ways)}){{{count},{at_most}}}"


def _bytes_of(character: str) -> Iterator[str]:
    """Yield how URLs and Python's bytes spell a character: each of its bytes."""
    for errors in ("surrogateescape", "surrogatepass"):
        try:
            content = character.encode(errors=errors)
        except UnicodeEncodeError:
            continue
        yield "".join(rf"{_PERCENT}(?i:{each:02x})" for each in content)
        yield "".join(rf"{_ESCAPE}x(?i:{each:02x})" for each in content)


def _escapes(character: str) -> Iterator[str]:
    """Yield how Python and JSON write a character behind a backslash."""
    code = ord(character)
    if code < 0x100:
        yield f"x{code:02x}"
    if character == "\b":
        yield "b"
    if code < 0x10000:
        yield f"u{code:04x}"
    else:
        pair = character.encode("utf-16-be").hex()
        yield rf"u{pair[:4]}\\{{1,8}}u{pair[4:]}"
    yield f"U{code:08x}"
