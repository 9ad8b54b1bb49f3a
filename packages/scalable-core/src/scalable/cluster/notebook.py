"""What a notebook shows of worker groups, and keeps up to date where it is shown.

IPython is used where it runs already, and imported nowhere. In its terminal, and elsewhere, nothing is kept up to date.
"""

from __future__ import annotations

import html
import logging
import sys
import threading
import uuid
import weakref
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from scalable.cluster.port import GroupStatus

__all__ = ["Shown", "groups_table", "in_notebook", "show_live"]

logger = logging.getLogger("scalable.notebook")

_INTERVAL = 1.0
"""Seconds between two updates."""


class Shown(Protocol):
    """What can be kept up to date."""

    def _live_html(self) -> tuple[str, bool]:
        """Return what is to be seen now, and whether it is final."""
        ...


def groups_table(groups: Mapping[str, GroupStatus]) -> str:
    """Return a table of worker groups, with how many workers each has and what the others wait for.

    Examples
    --------
    >>> from scalable.cluster.port import GroupStatus, Reason
    >>> table = groups_table({"gcam": GroupStatus("gcam", wanted=4, running=3, reason=Reason.PRIORITY)})
    >>> "<td>gcam</td><td>3 of 4</td><td>priority</td>" in table
    True
    """
    rows = "".join(_row(tag, status) for tag, status in groups.items())
    head = "<thead><tr><th>Group</th><th>Workers</th><th>State</th></tr></thead>"
    return f"<table>{head}<tbody>{rows}</tbody></table>"


def _row(tag: str, status: GroupStatus) -> str:
    state = "failed" if status.failed else status.reason.value if status.reason else ""
    cells = (
        tag,
        f"{status.running} of {status.wanted}",
        ": ".join(filter(None, (state, status.detail))),
    )
    return "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>"


def in_notebook() -> bool:
    """Return whether this process is the kernel of a notebook."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return getattr(shell, "kernel", None) is not None


def show_live(shown: Shown) -> None:
    """Show something in the cell that runs, and keep it up to date there.

    What is shown in several cells is kept up to date in all of them.

    Raises
    ------
    NotImplementedError
        This is no notebook. IPython shows the `repr` then.
    """
    if not in_notebook():
        raise NotImplementedError
    _displays.show(shown)


class _Display:
    """One object in a notebook, under one id for all cells that show it."""

    def __init__(self, shown: Shown) -> None:
        # The notebook must keep nothing open that the program has dropped.
        self._shown = weakref.ref(shown)
        self._id = f"scalable-{uuid.uuid4().hex}"
        self._last = ""

    def update(self, publish: Callable[..., Any], *, first: bool = False) -> bool:
        """Publish what has changed; return whether that is final."""
        shown = self._shown()
        if shown is None:
            return True
        text, final = shown._live_html()
        if first or text != self._last:
            self._last = text
            data = {"text/plain": repr(shown), "text/html": text}
            publish(data, raw=True, display_id=self._id)
        return final


class _Displays:
    """All objects that are shown, and a thread that keeps them up to date while there are some."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._live: weakref.WeakKeyDictionary[Any, _Display] = weakref.WeakKeyDictionary()
        self._thread: threading.Thread | None = None

    def show(self, shown: Shown) -> None:
        from IPython.display import display

        with self._lock:
            one = self._live.get(shown) or _Display(shown)
        if one.update(display, first=True):
            return
        with self._lock:
            self._live[shown] = one
            # A fork has no threads but its own.
            if self._thread is None or not self._thread.is_alive():
                # A daemon, so that a kernel ends when it is told to.
                self._thread = threading.Thread(
                    target=self._follow, name="scalable-notebook", daemon=True
                )
                self._thread.start()

    def _follow(self) -> None:
        from IPython.display import update_display

        pause = threading.Event()
        while True:
            pause.wait(_INTERVAL)
            with self._lock:
                live = list(self._live.values())
                if not live:
                    self._thread = None
                    return
            ended = [one for one in live if _is_final(one, update_display)]
            with self._lock:
                for shown, one in list(self._live.items()):
                    if one in ended:
                        del self._live[shown]


def _is_final(one: _Display, publish: Callable[..., Any]) -> bool:
    """Update what is shown; return whether no more updates are to follow."""
    try:
        return one.update(publish)
    except Exception:  # the kernel may be ending
        logger.debug("cannot update what a notebook shows", exc_info=True)
        return True


_displays = _Displays()
