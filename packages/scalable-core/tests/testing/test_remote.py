"""A scheduler in another process, under TLS."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from scalable.testing.processes import RemoteFakeProvider
from scalable.testing.remote import RemoteConformance

# Shared with the client processes that the suite starts.
ROOT = Path(
    os.environ.setdefault("SCALABLE_REMOTE_FAKE", tempfile.mkdtemp(prefix="scalable-remote-"))
)


class TestRemote(RemoteConformance):
    manifest = """
    version: 1
    project: {name: conformance}
    targets: {there: {provider: remote-fake}}
    components: {alpha: {}, beta: {slots: 2}}
    """
    stall = 20.0

    def make_provider(self) -> RemoteFakeProvider:
        return RemoteFakeProvider(ROOT)

    def leftovers(self) -> Sequence[str]:
        return self.make_provider().leftovers()
