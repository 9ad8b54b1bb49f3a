"""A scheduler in another process, under TLS."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from scalable.testing.processes import RemoteFakeProvider
from scalable.testing.remote import RemoteConformance

_VARIABLE = "SCALABLE_REMOTE_FAKE"
if _VARIABLE not in os.environ:  # the client processes that the suite starts share it
    os.environ[_VARIABLE] = tempfile.mkdtemp(prefix="scalable-remote-")
    atexit.register(shutil.rmtree, os.environ[_VARIABLE], ignore_errors=True)
ROOT = Path(os.environ[_VARIABLE])


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
