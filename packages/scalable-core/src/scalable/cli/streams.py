"""The standard streams of a process that was started without some of them, as by ``2>&-``."""

from __future__ import annotations

import os
import sys

__all__ = ["open_standard_streams"]


def open_standard_streams() -> None:
    """Open those standard streams on the null device that are closed.

    Otherwise, `print` writes on stdout what is meant for a stderr that is closed, and the next file or socket that this
    process opens takes the place of the stream, for its children too.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is not None:
            continue
        opened = os.open(os.devnull, os.O_RDWR)
        if opened != number:
            try:
                os.fstat(number)  # something else has it already, and keeps it
                number = opened
            except OSError:
                os.dup2(opened, number)
                os.close(opened)
        os.set_inheritable(number, True)
        mode = "r" if name == "stdin" else "w"
        setattr(sys, name, os.fdopen(number, mode, encoding="utf-8"))
