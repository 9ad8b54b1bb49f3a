"""Why a task does not run yet, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scalable.cluster.explanations import SECEDE

__all__ = ["describe_wait"]


def describe_wait(facts: Mapping[str, Any], groups: Mapping[str, str]) -> str:
    """Return why a task does not run yet, in one line.

    Parameters
    ----------
    facts : mapping
        What the scheduler knows of it (`scalable.cluster.plugin.explaining`).
    groups : mapping of str to str
        Why workers are missing, by tag.

    Examples
    --------
    >>> ahead = [("model-1", 75.2)]
    >>> describe_wait({"state": "assigned", "worker": "gcam-1", "status": "running", "ahead": ahead, "more": 0}, {})
    'it waits on gcam-1, which runs model-1 (for 75 s)'
    >>> describe_wait({"state": "no-worker", "resources": {"gcam": 1}, "workers": []}, {"gcam": "0 workers are wanted"})
    'no worker with the tag gcam takes tasks now: 0 workers are wanted'
    >>> describe_wait({"state": "running", "worker": "gcam-1", "seconds": 3.4, "key": "a", "dependencies": 2}, {})
    'it waits for 2 other tasks; of a: it runs on gcam-1, for 3 s so far'
    >>> facts = {"state": "running", "worker": "gcam-1", "seconds": 3.4, "blocked": "a keeps its slot …"}
    >>> describe_wait(facts, {})
    'it runs on gcam-1, for 3 s so far; a keeps its slot …: if it waits for that, let it call ...'
    """
    text = _describe(facts, groups)
    if blocked := facts.get("blocked"):
        text += f"; {blocked}: {SECEDE}"
    if count := facts.get("dependencies"):
        others = "another task" if count == 1 else f"{count} other tasks"
        return f"it waits for {others}; of {facts['key']}: {text}"
    return text


def _describe(facts: Mapping[str, Any], groups: Mapping[str, str]) -> str:
    state = facts["state"]
    if state == "unknown":
        return "the scheduler does not know it: it was cancelled, or has not arrived yet"
    if state == "running":
        return f"it runs on {facts['worker']}, for {facts['seconds']:.0f} s so far"
    if state == "assigned":
        return f"it waits on {facts['worker']}, which {_describe_worker(facts)}"
    if state == "queued":
        return "it waits for a worker to have a free slot; all are busy"
    if state == "no-worker":
        return _describe_missing(facts, groups)
    finished = {"memory": "it is done", "erred": "it has failed; its future has the error"}
    return finished.get(state, f"it is about to be scheduled (state {state})")


def _describe_worker(facts: Mapping[str, Any]) -> str:
    if facts["status"] != "running":
        return f"is {facts['status'].replace('_', ' ')}"
    ahead = [f"{key} (for {seconds:.0f} s)" for key, seconds in facts["ahead"]]
    ahead += [f"{key} (which was cancelled)" for key in facts.get("cancelled", ())]
    if not ahead:
        return "is about to start it"
    running = ", ".join(ahead)
    return f"runs {running}" + (f" and {facts['more']} more" if facts["more"] else "")


def _describe_missing(facts: Mapping[str, Any], groups: Mapping[str, str]) -> str:
    tags = [*facts["resources"]]
    if facts["workers"]:
        return (
            f"none of the workers that it asks for takes tasks now: {', '.join(facts['workers'])}"
        )
    kind = f"worker with the tag {tags[0]}" if tags else "worker"
    reasons = [groups[tag] for tag in tags or groups if tag in groups]
    why = f": {reasons[0]}" if reasons else "; all may be paused or draining"
    return f"no {kind} takes tasks now{why}"
