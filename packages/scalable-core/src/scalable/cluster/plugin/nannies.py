"""What needs a nanny, which the workers of a group do not have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from distributed.scheduler import Scheduler

__all__ = ["refuse_nanny_plugins"]


def refuse_nanny_plugins(scheduler: Scheduler) -> None:
    """Make a scheduler refuse nanny plugins, from clients and from plugins of its own, such as `UploadDirectory`."""
    scheduler.handlers["register_nanny_plugin"] = _refuse_nanny_plugin
    scheduler.register_nanny_plugin = _refuse_nanny_plugin  # type: ignore[method-assign,assignment]


async def _refuse_nanny_plugin(*args: Any, name: str, **kwargs: Any) -> NoReturn:
    raise NotImplementedError(
        f"the nanny plugin {name!r} would have no effect, because workers of a group have no nanny: use a "
        "WorkerPlugin, whose setup runs in each worker, client.upload_file() for modules, or a preload_script"
    )
