"""Plans that were written to a file: what a later run must still match, and how two plans differ."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalable.cli.failures import USAGE, Failure

if TYPE_CHECKING:
    from scalable.planning import Plan
    from scalable.providers.base import Artifact
    from scalable.session import ScalableSession

__all__ = [
    "Difference",
    "changes_since",
    "compare_plans",
    "plan_document",
    "read_plan",
    "render_plan",
]

_MAX_BYTES = 10**8

_NOTHING = "-"


@dataclass(frozen=True)
class Difference:
    """Something in which two plans differ, as text.

    Parameters
    ----------
    what : str
        What it is: ``workers of gcam``.
    first, second : str
        What the plans say; ``-`` where one says nothing.
    """

    what: str
    first: str
    second: str


def render_plan(session: ScalableSession, plan: Plan) -> Sequence[Artifact]:
    """Return what a run of a plan would send; nothing if the provider has nothing to render."""
    from scalable.providers.base import Renders

    provider = session.provider
    return provider.render(session.spec, plan.scale_plan) if isinstance(provider, Renders) else ()


def plan_document(
    session: ScalableSession, plan: Plan, artifacts: Sequence[Artifact], overlay: str | None
) -> dict[str, Any]:
    """Return a plan as JSON values, with what a later run compares: versions, and digests of what it would send.

    Parameters
    ----------
    session : ScalableSession
        The session that has made it.
    plan : Plan
        The plan.
    artifacts : sequence of Artifact
        What a run would send.
    overlay : str or None
        The overlay that was asked for instead of the target's own.
    """
    launch = {
        "overlay": overlay,
        "versions": dict(_versions(plan.provider)),
        "artifacts": {
            each.name: hashlib.sha256(each.content.encode()).hexdigest() for each in artifacts
        },
    }
    return {**json.loads(plan.to_json()), "launch": launch}


def _versions(provider: str) -> Iterator[tuple[str, str]]:
    """Yield the versions of the core and of the distribution that has a provider."""
    from scalable.providers.registry import provider_distributions

    yield "scalable-core", metadata.version("scalable-core")
    yield from provider_distributions(provider).items()


def read_plan(path: Path) -> dict[str, Any]:
    """Return the document of a plan that ``scalable plan`` has written.

    Raises
    ------
    Failure
        The file cannot be read, or has no plan.
    """
    from scalable.manifest.files import read_file
    from scalable.planning import Plan

    try:
        text = read_file(path, _MAX_BYTES).decode("utf-8")
        Plan.from_json(text)
        document: dict[str, Any] = json.loads(text)
        if not isinstance(document.get("launch"), dict):
            raise ValueError("it was written by an earlier version; make it again")
    except OSError as error:
        raise Failure(f"{path}: {error.strerror}", USAGE) from error
    except UnicodeDecodeError as error:
        raise Failure(f"{path}: this is not a plan", USAGE) from error
    except ValueError as error:
        raise Failure(f"{path}: {error}", USAGE) from error
    return document


def changes_since(saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return what a run would do now otherwise than a saved plan says, in one line each. Prices may change."""
    return [
        f"{each.what}: {each.first} in the plan, {each.second} now"
        for each in compare_plans(saved, now)
        if not each.what.startswith("cost")
    ]


def compare_plans(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[Difference]:
    """Return in what two plans differ.

    Examples
    --------
    >>> def plan(n):
    ...     scale = {"workers_by_tag": {"gcam": n}, "resources_by_tag": {"gcam": {"cpus": 1}}}
    ...     return {"target": "hpc", "scale_plan": scale}
    >>> compare_plans(plan(1), plan(4))
    [Difference(what='workers of gcam', first='1', second='4')]
    """
    one, other = dict(_facts(first)), dict(_facts(second))
    return [
        Difference(what, one.get(what, _NOTHING), other.get(what, _NOTHING))
        for what in dict.fromkeys([*one, *other])
        if one.get(what) != other.get(what)
    ]


def _facts(plan: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what a plan says, by name, as text that people read."""
    from scalable.manifest.units import format_duration, format_memory

    yield "target", str(plan.get("target"))
    yield "provider", str(plan.get("provider"))
    yield "manifest", str(plan.get("manifest_lock"))[:12]
    scale, launch = plan.get("scale_plan") or {}, plan.get("launch") or {}
    formats = {"memory": format_memory, "walltime": format_duration}
    for tag, count in (scale.get("workers_by_tag") or {}).items():
        yield f"workers of {tag}", str(count)
    for tag, (low, high) in (scale.get("ranges_by_tag") or {}).items():
        yield f"range of {tag}", f"{low} to {high}"
    for tag, request in (scale.get("resources_by_tag") or {}).items():
        for name, value in request.items():
            shown = _NOTHING if value is None else str(formats.get(name, str)(value))
            yield f"{name} of {tag}", shown
    for tag, policy in (scale.get("policies_by_tag") or {}).items():
        yield f"policy of {tag}", json.dumps(policy, sort_keys=True)
    yield "max_workers", str(scale.get("max_workers") or _NOTHING)
    for task, component in (plan.get("components_by_task") or {}).items():
        yield f"component of task {task}", component
    if cost := plan.get("cost"):
        for item in cost.get("items", ()):
            price = item.get("unit_price") or "unknown"
            yield (
                f"cost of {item['description']}",
                f"{item['quantity']} {item['unit']} at {price} {item['currency']}/h",
            )
        yield (
            "cost of an hour at the start",
            f"{cost.get('hourly') or 'unknown'} {cost['currency']}",
        )
    yield "overlay", str(launch.get("overlay") or _NOTHING)
    for name, version in (launch.get("versions") or {}).items():
        yield f"version of {name}", version
    for name, digest in (launch.get("artifacts") or {}).items():
        yield f"content of {name}", digest[:12]
