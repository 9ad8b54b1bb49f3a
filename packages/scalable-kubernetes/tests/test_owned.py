"""What is listed at a target, on a server that keeps objects as Kubernetes does."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from api_server import serving

from scalable.providers.kubernetes.api import KubernetesApi
from scalable.providers.kubernetes.names import MANAGED, labels
from scalable.providers.kubernetes.owned import list_owned


def test_what_another_tool_manages_is_of_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(tmp_path) as (server, kubeconfig):
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
        server.put("secrets", {"metadata": {"name": "theirs", "labels": {**MANAGED}}})
        server.put("secrets", {"metadata": {"name": "ours", "labels": labels("here-123456")}})

        async def names() -> list[str]:
            api = KubernetesApi(None, "models")
            try:
                return [each.name for each in await list_owned(api)]
            finally:
                await api.close()

        assert asyncio.run(names()) == ["ours"]
