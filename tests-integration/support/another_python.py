"""A Python whose scheduler reports another version than the client's, and behaves as one that is sent its byte code."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

__all__ = ["scripts", "write"]

_SITE = """
import os
import distributed
from distributed import versions

facts = versions.get_system_info


def get_system_info():
    return {**facts(), "python": "3.9.1.final.0"}


async def crash(*_, **__):
    os._exit(139)  # as another Python does that is sent byte code


versions.get_system_info = get_system_info
distributed.Scheduler.register_scheduler_plugin = crash
"""


def scripts(directory: str, python: str = "python3") -> Mapping[str, str]:
    """Return the files of it by their paths: ``python`` in the directory, and what that reads.

    Parameters
    ----------
    directory : str
        Where it is to be.
    python : str
        The Python that it is otherwise.
    """
    start = f'#!/bin/sh\nPYTHONPATH={directory} exec {python} "$@"\n'
    return {f"{directory}/python": start, f"{directory}/sitecustomize.py": _SITE}


def write(directory: Path) -> str:
    """Write it into a directory, which may exist, and return its path."""
    directory.mkdir(exist_ok=True)
    for path, text in scripts(str(directory), sys.executable).items():
        Path(path).write_text(text, encoding="utf-8")
        Path(path).chmod(0o755)
    return f"{directory}/python"
