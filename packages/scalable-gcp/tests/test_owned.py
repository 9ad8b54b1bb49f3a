from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest
from google.cloud import compute_v1

from scalable.providers import labels
from scalable.providers.cloud.gcp.api import GceApi
from scalable.providers.cloud.gcp.names import Run
from scalable.providers.cloud.gcp.options import GCPOptions
from scalable.providers.cloud.gcp.owned import list_owned

RUNS = ("mine", "theirs")


class Project:
    """A project with a machine and a secret of each of two users."""

    project = "climate-lab"

    def __init__(self, *owners: str) -> None:
        self.labels = [Run(run, owner).all_labels for run, owner in zip(RUNS, owners, strict=True)]

    async def check_credentials(self) -> str:
        return self.project

    async def call(self, *_: Any, **__: Any) -> Any:
        machines = [
            compute_v1.Instance(name=run, labels=labels, status="RUNNING")
            for run, labels in zip(RUNS, self.labels, strict=True)
        ]
        return [("zones/us-east1-b", SimpleNamespace(instances=machines))]

    async def rest(self, *_: Any) -> Any:
        named = zip(RUNS, self.labels, strict=True)
        return {"secrets": [{"name": f"secrets/{run}", "labels": labels} for run, labels in named]}


@pytest.mark.parametrize("me", ["anna", "anna.b", "Anna", "LAB\\anna", "Анна"])
def test_what_a_user_has_started_is_theirs(monkeypatch: pytest.MonkeyPatch, me: str) -> None:
    monkeypatch.setattr(labels, "current_owner", lambda: me)
    options = GCPOptions(zone="us-east1-b", keys="secret-manager")
    found = asyncio.run(list_owned(cast("GceApi", Project(me, "somebody")), options))
    assert [(each.kind, each.owner) for each in found] == [
        ("machine", me),
        ("machine", "somebody"),
        ("secret", me),
        ("secret", "somebody"),
    ]
