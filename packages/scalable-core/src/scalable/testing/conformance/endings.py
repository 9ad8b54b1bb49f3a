"""Tests of what is left: after a build that failed, and after the end of a cluster."""

from __future__ import annotations

import pytest

from scalable.errors import ValidationFailedError
from scalable.testing.conformance.base import SuiteBase, ability
from scalable.testing.conformance.running import by_value, nap

__all__ = ["EndingTests"]


class EndingTests(SuiteBase):
    """What a build that failed and a cluster that has ended leave, which is nothing."""

    # -- A build that fails

    def test_an_invalid_manifest_builds_nothing(self) -> None:
        with pytest.raises(ValidationFailedError):
            self.make_provider().build_cluster(self.spec(sheep=1))
        assert list(self.leftovers()) == []

    def test_a_failed_build_leaves_nothing_behind(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from scalable.cluster.link import RpcLink

        async def refuse(*_: object) -> None:
            raise RuntimeError("the scheduler refuses")

        # The last step of a build, when the scheduler is already up.
        monkeypatch.setattr(RpcLink, "start", refuse)
        with pytest.raises(RuntimeError, match="refuses"):
            self.make_provider().build_cluster(self.spec())
        assert list(self.leftovers()) == []

    # -- The end of a cluster

    def test_close_is_idempotent(self) -> None:
        with self.cluster() as running:
            running.scale(alpha=1)
            running.provider.close(running.handle)
            running.provider.close(running.handle)
            assert list(self.leftovers()) == []

    @ability("interrupt")
    def test_close_ends_running_tasks(self) -> None:
        with self.cluster() as running:
            running.scale(alpha=1)
            with running.client() as client:
                future = client.submit(by_value(nap), 600.0, tag="alpha")
                running.until(lambda: any(client.processing().values()), "the task is under way")
                running.provider.close(running.handle)
                assert future.status in ("cancelled", "lost")
