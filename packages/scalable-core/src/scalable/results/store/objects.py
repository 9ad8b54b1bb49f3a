"""The format of a result: one object, which says by itself whether it is whole. Pure functions.

An object is a line, a header as JSON, and the pickle of the result with its buffers::

    scalable-result 1 <name> <length of the header> <lengths of pickle and buffers> <their checksum> <checksum>

The last checksum is that of the line before it, and of the header. What reads a result needs no JSON for it.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import platform
import sys
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

__all__ = [
    "FORMAT",
    "MAGIC",
    "DamagedResultError",
    "Lead",
    "StoreError",
    "checked_lead",
    "encode",
    "frames_of",
    "header_of",
    "lead_of",
    "pickled",
    "value_of",
]

FORMAT = 1
MAGIC = b"scalable-result "

_LONGEST_LEAD = 2**16
"""A line without an end within so many bytes is none. It has a number for each buffer of the result."""


class StoreError(OSError):
    """The store cannot be read or written."""


class DamagedResultError(StoreError):
    """An object of the store is not what was written, or not all of it."""


class Lead(NamedTuple):
    """The first line of an object.

    Parameters
    ----------
    name : str
        The name of the result.
    header : int
        Where the header begins.
    frames : list of int
        Where the pickle and each buffer begin, and where the last one ends.
    signed : bytes
        What the last checksum is of, besides the header.
    sha256, signature : bytes
        The checksums.
    """

    name: str
    header: int
    frames: list[int]
    signed: bytes
    sha256: bytes
    signature: bytes

    @property
    def end(self) -> int:
        """Where the object ends."""
        return self.frames[-1]


def encode(name: str, header: Mapping[str, Any], value: object) -> list[Any]:
    """Return the parts of the object of a result. Large buffers of the result are not copied.

    Raises
    ------
    Exception
        The result cannot be pickled.
    """
    frames = pickled(value)
    digest = hashlib.sha256()
    for frame in frames:
        digest.update(frame)
    document = {
        **header,
        "type": f"{type(value).__module__}.{type(value).__qualname__}",
        "created": time.time(),
        "versions": _versions(),
    }
    encoded = json.dumps(document).encode()
    lengths = ",".join(str(memoryview(frame).nbytes) for frame in frames)
    line = f"{MAGIC.decode()}{FORMAT} {name} {len(encoded)} {lengths} {digest.hexdigest()}".encode()
    signature = hashlib.sha256(line + encoded).hexdigest().encode()
    return [b"%b %b\n" % (line, signature), encoded, *frames]


def lead_of(name: str, content: bytes, at: int = 0) -> Lead:
    """Return the first line of an object.

    Parameters
    ----------
    name : str
        What errors call it.
    content : bytes
        The object, or its beginning.
    at : int
        Where it begins.

    Raises
    ------
    DamagedResultError
        It does not begin as objects do.
    """
    end = content.find(b"\n", at, at + _LONGEST_LEAD)
    words = content[at:end].split(b" ") if end >= 0 and content.startswith(MAGIC, at) else []
    if len(words) != 7:
        raise DamagedResultError(f"{name} is damaged: it does not begin as results do")
    _, version, own_name, header, lengths, sha256, signature = words
    if version != b"%d" % FORMAT:
        raise DamagedResultError(
            f"{name} has format {version.decode(errors='replace')}, not {FORMAT}"
        )
    try:
        frames = [end + 1 + int(header)]
        for length in lengths.split(b","):
            frames.append(frames[-1] + int(length))
    except ValueError:
        raise DamagedResultError(f"{name} is damaged: it does not begin as results do") from None
    signed = content[at : end - len(signature) - 1]
    return Lead(own_name.decode(errors="replace"), end + 1, frames, signed, sha256, signature)


def header_of(name: str, content: bytes) -> dict[str, Any]:
    """Return what an object, or its beginning, says of its result.

    Raises
    ------
    DamagedResultError
        The object is damaged, or that of another result.
    """
    lead = _lead_of_result(name, content)
    header: dict[str, Any] = json.loads(content[lead.header : lead.frames[0]])
    sizes = [end - begin for begin, end in zip(lead.frames, lead.frames[1:], strict=False)]
    return {**header, "name": lead.name, "frames": sizes, "sha256": lead.sha256.decode()}


def frames_of(name: str, content: bytes) -> list[Any]:
    """Return the pickle of an object and its buffers, which are as they were written.

    Raises
    ------
    DamagedResultError
        The object is damaged, or that of another result.
    """
    lead = _lead_of_result(name, content)
    begin = lead.frames[0]
    if len(content) != lead.end:
        raise DamagedResultError(
            f"{name} is damaged: it has {len(content) - begin} bytes of {lead.end - begin}"
        )
    view = memoryview(content)[begin:]
    if hashlib.sha256(view).hexdigest().encode() != lead.sha256:
        raise DamagedResultError(f"{name} is damaged: its checksum differs")
    if len(lead.frames) == 2:
        return [view]
    view = memoryview(bytearray(view))  # writable, because arrays are views of it
    return [view[i - begin : j - begin] for i, j in zip(lead.frames, lead.frames[1:], strict=False)]


def value_of(frames: list[Any]) -> Any:
    """Return a result from its pickle and the buffers of that. This runs code of whoever wrote it."""
    return pickle.loads(frames[0], buffers=frames[1:])  # noqa: S301 - the store is trusted


def pickled(value: object) -> list[Any]:
    """Return the pickle of a value and its buffers, which are not copied."""
    from distributed.protocol.pickle import dumps

    buffers: list[pickle.PickleBuffer] = []
    try:
        content = dumps(value, buffer_callback=buffers.append)
        return [content, *(buffer.raw() for buffer in buffers)]
    except BufferError:  # a buffer that is not contiguous
        return [dumps(value)]


def checked_lead(name: str, content: bytes, at: int = 0) -> Lead:
    """Return the first line of an object, whose header is as it was written.

    Raises
    ------
    DamagedResultError
        It is not.
    """
    lead = lead_of(name, content, at)
    signature = hashlib.sha256(lead.signed + content[lead.header : lead.frames[0]])
    if signature.hexdigest().encode() != lead.signature:
        raise DamagedResultError(f"{name} is damaged: the checksum of its header differs")
    return lead


def _lead_of_result(name: str, content: bytes) -> Lead:
    lead = checked_lead(name, content)
    if lead.name != name:
        raise DamagedResultError(f"{name} is damaged: it is {lead.name}")
    return lead


def _versions() -> dict[str, str]:
    names = ("dask", "distributed", "numpy", "pandas", "xarray", "cloudpickle")
    found = {"python": platform.python_version()}
    for name in names:
        version = getattr(sys.modules.get(name), "__version__", None)
        if isinstance(version, str):
            found[name] = version
    return found
