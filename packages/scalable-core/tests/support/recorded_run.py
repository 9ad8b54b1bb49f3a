"""The rows of a run that was not run: two groups, a queue, failures, a lost worker."""

from __future__ import annotations

import random
from typing import Any

BEGAN = 1_795_940_000.0

Rows = list[dict[str, Any]]


def recorded_run(n_workers: int = 12, n_tasks: int = 900) -> tuple[dict[str, Any], Rows, Rows]:
    """Return a record, its tasks and its workers, always the same ones."""
    chance = random.Random(1)
    workers: Rows = []
    tasks: Rows = []
    for number in range(n_workers):
        tag = "gcam" if number % 4 else "plots"
        launched = BEGAN + 5
        started = launched + chance.uniform(1, 900)
        workers.append(
            {
                "worker": f"{tag}-{number + 1}",
                "component": tag,
                "launched": launched,
                "started": started,
                "joined": started + chance.uniform(3, 20),
                "ended": BEGAN + 3600,
                "why": "",
            }
        )
    workers[1] |= {"ended": workers[1]["joined"] + 600, "why": "used more memory than its 8G"}
    for number in range(n_tasks):
        worker = workers[number % n_workers]
        before = [task["ended"] for task in tasks if task["worker"] == worker["worker"]]
        start = max([worker["joined"], *before])
        end = start + chance.uniform(0.6, 1.2) * 3000 * n_workers / n_tasks
        if end > worker["ended"]:
            continue
        function = "draw" if worker["component"] == "plots" else chance.choice(["run", "post"])
        tasks.append(
            {
                "task": f"{worker['component']}.{function}-1f2e3d4c5b6a7988-{number}",
                "component": worker["component"],
                "worker": worker["worker"],
                "ready": BEGAN + 10,
                "started": start,
                "ended": end,
                "status": "failed" if chance.random() < 0.02 else "done",
                "cpu_seconds": (end - start) * 0.8,
                "peak_memory": int(chance.uniform(2e9, 7.6e9)),
            }
        )
    failed = sum(task["status"] == "failed" for task in tasks)
    request = {"cpus": 4, "memory": 8 * 10**9, "gpus": None, "walltime": None}
    document = {
        "format": 1,
        "id": "20261129T081320Z-16bd4e",
        "status": "failed",
        "started": "2026-11-29T08:13:20+00:00",
        "ended": "2026-11-29T09:13:30+00:00",
        "exit_status": 1,
        "error": "ValueError: 3 members are missing <script>alert(1)</script>",
        "target": "cloud",
        "provider": "aws",
        "workflow": {"path": "ensembles/workflow.py"},
        "plan": {
            "scale_plan": {
                "workers_by_tag": {"gcam": 9, "plots": 3},
                "resources_by_tag": {"gcam": request, "plots": request},
            }
        },
        "versions": {"python": "3.12.4", "scalable-core": "2.0.0"},
        "packages": {"numpy": "2.1.0"},
        "events": [
            {"time": "2026-11-29T08:13:30.000+00:00", "group": "gcam", "text": "launched 9"}
        ],
        "summary": {
            "tasks": [
                {
                    "name": "run",
                    "component": "gcam",
                    "done": len(tasks) - failed,
                    "failed": failed,
                    "left": 0,
                    "cancelled": 2,
                }
            ],
            "failures": [
                {
                    "task": "run",
                    "error": "ValueError('no data in /a/rather/long/path/of/a/scenario/" + 90 * "x",
                    "count": failed,
                    "example": "gcam.run-1f2e3d4c5b6a7988-17",
                    "worker": "gcam-2",
                }
            ],
            "lost": {"run": 2},
            "worker_hours": {"gcam": 7.25, "plots": 2.5},
            "cost": {
                "currency": "USD",
                "estimated_hourly": "2.4",
                "components": {"gcam": "1.7400", "plots": None},
                "rest": "0.0500",
                "actual": "1.7900",
                "unknown": ["plots GPUs"],
            },
        },
    }
    return document, tasks, workers
