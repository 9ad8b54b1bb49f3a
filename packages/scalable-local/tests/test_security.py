"""Nobody but its owner gets into a session, also on a machine that many share."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from distributed import Client, get_client, worker_client

from scalable.client import ScalableClient
from scalable.errors import MissingKeysError
from scalable.manifest import parse_manifest
from scalable.planning import build_plan
from scalable.providers.base import ClusterHandle, DeploymentSpec
from scalable.providers.local import LocalProvider

# Run by its source, so that an unprivileged user needs no access to this file. It imports first, while it still may.
INTRUDER = """
import asyncio, json, os, ssl, sys
from distributed import connect
from distributed.comm import tcp
from scalable.providers.tls import make_credentials

address, keys = sys.argv[1:]
own = make_credentials().security().get_connection_args("client")
own["ssl_context"].verify_mode = ssl.CERT_NONE  # whoever the scheduler is
if os.getuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)

async def attempt(address, **arguments):
    try:
        await (await connect(address, timeout=20, **arguments)).close()
    except OSError as error:
        return type(error).__name__
    return "connected"

def read():
    try:
        return open(keys).read()
    except PermissionError as error:
        return type(error).__name__

print(json.dumps({
    "uid": os.getuid(),
    "own keys": asyncio.run(attempt(address, **own)),
    "no TLS": asyncio.run(attempt(address.replace("tls:", "tcp:"))),
    "file": read(),
}))
"""


@contextmanager
def cluster(**options: Any) -> Iterator[ClusterHandle]:
    """Build a cluster with one worker."""
    manifest = parse_manifest(
        {
            "version": 1,
            "project": {"name": "test"},
            "targets": {"here": {"provider": "local", "dashboard_address": None, **options}},
            "components": {"gcam": {"slots": 2}},  # nested tasks need a second one
        }
    )
    spec, provider = DeploymentSpec.from_manifest(manifest, target_name="here"), LocalProvider()
    with provider.build_cluster(spec) as handle:
        provider.scale(handle, build_plan(spec, provider).scale_plan)
        handle.backend.wait_for_group("gcam", timeout=60)
        yield handle


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let clusters keep their files below this directory."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def key_files(temporary: Path) -> list[Path]:
    return [
        path
        for path in temporary.rglob("*")
        if path.is_file() and b"PRIVATE KEY" in path.read_bytes()
    ]


def listening() -> set[int]:
    return {
        connection.laddr.port
        for connection in psutil.Process().net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }


def test_other_users_of_the_machine_are_refused(temporary: Path) -> None:
    with cluster() as handle:
        (keys,) = key_files(temporary)
        done = subprocess.run(
            [sys.executable, "-c", INTRUDER, handle.backend.scheduler_address, keys],
            capture_output=True,
            check=True,
            timeout=120,
        )
        found = json.loads(done.stdout)
        # Closed by the scheduler, rather than timed out. Some versions of OpenSSL tell sooner why.
        refused = {"CommClosedError", "FatalCommClosedError"}
        assert {found["own keys"], found["no TLS"]} <= refused
        if (
            os.getuid() == 0
        ):  # who has no other user to become tries as oneself, and may read the file
            assert (found["uid"], found["file"]) == (65534, "PermissionError")


def test_who_only_connects_learns_nothing() -> None:
    with cluster() as handle:
        host, port = handle.backend.scheduler_address.removeprefix("tls://").split(":")
        with socket.create_connection((host, int(port)), timeout=60) as connection:
            # A scheduler without TLS introduces itself first. Under TLS, this is refused without a word of it.
            connection.sendall(b"hello\n" * 10)
            answer = b""
            try:
                while chunk := connection.recv(4096):
                    answer += chunk
            except ConnectionResetError:
                pass
        # No more than an alert: a record of type 21 (RFC 8446, 5.1).
        assert answer[:1] in (b"", b"\x15")
        assert len(answer) < 32


def test_keys_are_readable_by_their_user_only_and_removed_at_the_end(temporary: Path) -> None:
    with cluster() as handle:
        (keys,) = key_files(temporary)
        assert stat.S_IMODE(keys.stat().st_mode) == 0o600
        assert stat.S_IMODE(keys.parent.stat().st_mode) == 0o700
        run = temporary / keys.relative_to(temporary).parts[0]
        assert stat.S_IMODE(run.stat().st_mode) == 0o700
        text = keys.read_text().splitlines()[1]
        for process in psutil.Process().children(recursive=True):
            assert text not in " ".join(process.cmdline())
            assert text not in str(process.environ())
        assert text not in repr(handle.backend.security)
    assert not run.exists()
    assert key_files(temporary) == []


def test_keys_are_removed_where_the_log_of_a_failure_is_kept(temporary: Path) -> None:
    with cluster() as handle, handle.client_factory() as client:
        (worker,) = handle.backend.groups["gcam"].workers
        pids = client.run(os.getpid)
        os.kill(next(iter(pids.values())), 9)
        handle.backend.wait_for_group("gcam", timeout=60)
        handle.backend.scale_groups({"gcam": 0})
    assert worker
    assert key_files(temporary) == []


def nested(n: int) -> tuple[int, int]:
    with worker_client() as client:
        inner = client.submit(abs, -n).result()
    return inner, get_client().submit(abs, -n - 1).result()


def test_clients_of_the_owner_connect() -> None:
    with cluster() as handle:
        backend = handle.backend
        with Client(backend, set_as_default=False) as client:
            assert client.submit(nested, 1).result(60) == (1, 2)
        with Client(
            backend.scheduler_address, security=backend.security, set_as_default=False
        ) as client:
            assert client.submit(abs, -3).result(60) == 3
        with ScalableClient(backend) as scalable_client:
            assert scalable_client.submit(nested, 4, tag="gcam").result(60) == (4, 5)
            assert len(scalable_client.get_worker_logs()) == 1


def test_an_address_alone_is_refused_with_what_to_do() -> None:
    with cluster() as handle:
        address = handle.backend.scheduler_address
        with pytest.raises(MissingKeysError, match=r"ScalableClient\(session\.cluster\)") as caught:
            ScalableClient(address)
        assert caught.value.address == address


def test_threads_of_this_process_listen_on_no_port() -> None:
    before = listening()
    with cluster(processes=False) as handle:
        assert listening() == before
        assert handle.backend.dashboard_link == ""
        with handle.client_factory() as client:
            assert client.submit(nested, 1, tag="gcam").result(60) == (1, 2)
            assert listening() == before


def test_processes_listen_on_the_port_of_their_scheduler_only() -> None:
    before = listening()
    with cluster() as handle:
        _, _, port = handle.backend.scheduler_address.rpartition(":")
        assert listening() == {*before, int(port)}
