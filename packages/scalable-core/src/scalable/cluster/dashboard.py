"""The link to Dask's dashboard: one that opens, or none and the reason."""

from __future__ import annotations

import socket
import sys
from urllib.parse import urlsplit

__all__ = ["INSTALL", "has_dashboard", "link_that_opens"]

INSTALL = "install scalable-core[dashboard] in the environment of the workflow"
"""What to do where `has_dashboard` is false."""

_LOOPBACK = "127.0.0.1"


def has_dashboard() -> bool:
    """Return whether a scheduler of this process could import its dashboard, which needs bokeh."""
    # Dask names a link either way; the page behind it then says that bokeh is missing.
    return "distributed.dashboard.scheduler" in sys.modules


def link_that_opens(link: str, scheduler_address: str) -> str:
    """Return the link to the dashboard of a scheduler of this process; empty where nothing listens.

    Dask makes it of the scheduler's host, although the dashboard may listen on 127.0.0.1 only.

    Parameters
    ----------
    link : str
        Dask's link. One to another host, by the configuration's ``distributed.dashboard.link``, is not checked.
    scheduler_address : str
        The scheduler's address.
    """
    parts = urlsplit(link)
    host, port = parts.hostname, parts.port
    if not host or not port or f"//{host}" not in scheduler_address:
        return link
    for candidate in (host, _LOOPBACK):
        try:
            socket.create_connection((candidate, port), timeout=1.0).close()
        except OSError:
            continue
        return parts._replace(netloc=f"{candidate}:{port}").geturl()
    return ""
