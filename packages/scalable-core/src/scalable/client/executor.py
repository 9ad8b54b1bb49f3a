"""`concurrent.futures` executors for one tag."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scalable.client.client import ScalableClient

__all__ = ["TaggedCalls"]


class TaggedCalls:
    """A client whose calls carry a tag, as far as Dask's executor uses a client.

    Parameters
    ----------
    client : ScalableClient
        The client that submits them.
    tag : str
        The component whose workers run them.
    n : int or None
        Slots of the worker that each takes.
    """

    def __init__(self, client: ScalableClient, tag: str, n: int | None) -> None:
        self._client = client
        self._options = {"tag": tag, "n": n}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def submit(self, *args: Any, **kwargs: Any) -> Any:
        """Submit a call."""
        return self._client.submit(*args, **(self._options | kwargs))

    def map(self, *args: Any, **kwargs: Any) -> Any:
        """Submit a call for each element."""
        return self._client.map(*args, **(self._options | kwargs))
