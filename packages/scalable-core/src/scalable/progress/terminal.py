"""Lines that stay at the bottom of a terminal while a program writes above them."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TextIO, cast

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

__all__ = ["StatusArea"]


class StatusArea:
    """An area at the bottom of a terminal.

    It is erased for whatever else is written, and not drawn again until that output has ended its line: a progress bar
    or a prompt of the user's own is never overwritten. `rich.live.Live` would route such output through its own
    console instead, which wraps long lines and buffers a line until it ends.

    Parameters
    ----------
    console : Console
        The terminal.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        # Read now, because a console without a file of its own follows `sys.stderr`, which `below_output` replaces.
        self._stream = console.file
        self._lock = threading.RLock()
        self._height = 0
        self._inside_line = False

    @property
    def width(self) -> int:
        """The columns of the terminal."""
        return self._console.width

    def show(self, content: RenderableType) -> None:
        """Draw the area, replacing its content."""
        with self._console.capture() as capture:
            self._console.print(content, no_wrap=True, overflow="ellipsis", crop=True)
        text = capture.get()
        with self._lock:
            if not self._inside_line:
                self._write(self._erase_code() + text)
                self._height = text.count("\n")

    def hide(self) -> None:
        """Remove the area."""
        with self._lock:
            if self._height:
                self._write(self._erase_code())
                self._height = 0

    @contextmanager
    def below_output(self) -> Iterator[None]:
        """Keep the area below what is written to ``sys.stdout`` and ``sys.stderr``, if they are terminals."""
        before = sys.stdout, sys.stderr
        sys.stdout, sys.stderr = (
            cast(TextIO, _StreamAboveArea(self, stream)) if stream.isatty() else stream
            for stream in before
        )
        try:
            yield
        finally:
            self.hide()
            sys.stdout, sys.stderr = before

    def _erase_code(self) -> str:
        return f"\x1b[{self._height}A\x1b[J" if self._height else ""

    def _write(self, text: str) -> None:
        # The terminal may be closed. SIGHUP ends the program then, and this error must not.
        with suppress(OSError):
            self._stream.write(text)
            self._stream.flush()


class _StreamAboveArea:
    """A stream whose output goes above the area."""

    def __init__(self, area: StatusArea, stream: TextIO) -> None:
        self._area, self._stream = area, stream

    def write(self, text: str) -> int:
        with self._area._lock:
            self._area.hide()
            if text:
                self._area._inside_line = not text.endswith("\n")
            return self._stream.write(text)

    def writelines(self, lines: Iterator[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
