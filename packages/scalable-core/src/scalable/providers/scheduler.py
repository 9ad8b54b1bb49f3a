"""Arguments and image of a Dask scheduler that runs elsewhere. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scalable.providers.base import DeploymentSpec

__all__ = ["scheduler_arguments", "scheduler_image"]

MIN_IDLE_TIMEOUT = 30
"""Seconds that a scheduler waits at least for its first client, which may be slow to connect."""


def scheduler_arguments(
    *, port: int, orphan_timeout: float, extra: Sequence[str] = ()
) -> list[str]:
    """Return the arguments of ``dask scheduler`` for a scheduler under TLS.

    Parameters
    ----------
    port : int
        The port for clients and workers; 0 for a free one.
    orphan_timeout : float
        Seconds without a client after which it ends, 0 for never. From the first contact on, the engine counts them;
        before, Dask does, so that a client which is killed in between leaves no scheduler.
    extra : sequence of str
        Further arguments, such as those of `scalable.providers.tls.tls_arguments`.

    Examples
    --------
    >>> " ".join(scheduler_arguments(port=8786, orphan_timeout=900))
    '--protocol tls --port 8786 --no-dashboard --dashboard-address 127.0.0.1:0 --idle-timeout 900s'
    """
    arguments = ["--protocol", "tls", "--port", str(port)]
    # The default is all interfaces, open to everything that reaches the machine.
    arguments += ["--no-dashboard", "--dashboard-address", "127.0.0.1:0"]
    if orphan_timeout:
        arguments += ["--idle-timeout", f"{max(orphan_timeout, MIN_IDLE_TIMEOUT):g}s"]
    return [*arguments, *extra]


def scheduler_image(spec: DeploymentSpec, image: str | None) -> str:
    """Return the image of a scheduler elsewhere: the target's, else that of the first component that has one.

    Parameters
    ----------
    spec : DeploymentSpec
        The target.
    image : str or None
        What the target says.
    """
    from scalable.cluster.versions import matching_image  # imports Dask

    images = (component.image for component in spec.components.values())
    return image or next(filter(None, images), matching_image())
