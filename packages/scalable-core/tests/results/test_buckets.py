"""A store in a bucket, over the protocols of S3 and of Google's storage.

Skipped where the file system of a protocol, or the server that speaks it, is not installed.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from results_user import User

from scalable.client import ScalableClient
from scalable.results import cached
from scalable.results.reuse import open_results
from scalable.results.store.storage import DamagedResultError, Store


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket of moto's server, and the user's credentials for it."""
    s3fs: Any = pytest.importorskip("s3fs")
    moto_server = pytest.importorskip("moto.server")
    bucket = f"kept-{uuid.uuid4().hex}"  # moto's buckets are those of the process
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    s3fs.S3FileSystem().mkdir(bucket)
    yield f"s3://{bucket}/store"
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


@pytest.fixture
def gs(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket of an emulator of Google's storage, which asks for no credentials."""
    # Else gcsfs asks by gRPC, which the emulator does not speak, of what kind a bucket is.
    monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    gcsfs: Any = pytest.importorskip("gcsfs")
    emulator = pytest.importorskip("gcp_storage_emulator.server")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = emulator.create_server("127.0.0.1", port, in_memory=True, default_bucket="kept")
    server.start()
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
    gcsfs.GCSFileSystem.clear_instance_cache()
    yield "gs://kept/store"
    gcsfs.GCSFileSystem.clear_instance_cache()
    server.stop()


@pytest.fixture(params=["s3", "gs"])
def url(request: pytest.FixtureRequest) -> str:
    """A place for a store in a bucket."""
    found: str = request.getfixturevalue(request.param)
    return found


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_bucket_is_a_store(url: str, in_memory: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not in_memory:  # as if results were large
        monkeypatch.setattr("scalable.results.store.location._IN_MEMORY", 100)
    store = Store(url)
    made = store.open("me", create=True)
    store.check_writable()
    assert Store(url).open("me", create=False) == made
    store.check_same()
    names = [f"a/b/{number:032x}" for number in range(20)]
    for name in names[:15]:
        store.write_result(name, {}, [name, np.arange(1000)])
    assert {*store.find(names)} == {*names[:15]}
    assert {*store.find(names[13:17])} == {*names[13:15]}
    name, array = store.read_result(names[3])
    assert name == names[3]
    assert (array == np.arange(1000)).all()
    assert store.read_header(names[3])["name"] == names[3]
    assert [name for name, _ in store.results()] == names[:15]
    content = store.read_bytes(f"{names[0]}.result")
    assert content is not None
    store.write_bytes(f"{names[0]}.result", content[:-1])
    with pytest.raises(DamagedResultError):
        store.read_result(names[0])
    store.remove(f"{names[1]}.result")
    assert {*store.find(names)} == {names[0], *names[2:15]}


def test_a_second_run_uses_what_a_bucket_has(
    url: str, user: User, connect: Callable[..., ScalableClient]
) -> None:
    simulate = cached(user.module.simulate)
    for expected in (sorted(f"simulate {member}" for member in range(12)), []):
        client = connect(open_results(url))
        futures: list[Any] = client.map(simulate, range(12))
        assert client.gather(futures) == [2 * member for member in range(12)]
        assert client.submit(sum, futures).result() == 132
        assert user.starts() == expected


MANIFEST = """\
version: 1
project: {{name: ensemble, results: {url}}}
targets: {{first: {{provider: demo}}, second: {{provider: demo, n_workers: 2}}}}
components: {{model: {{slots: 2}}}}
tasks: {{simulate: {{component: model, cache: true}}}}
"""

WORKFLOW = """\
import os, time
from scalable.session import ScalableSession

def simulate(member):
    hold = os.environ["HOLD"]
    if member >= 30 and os.path.isdir(hold):
        open(os.path.join(hold, str(os.getpid())), "w").close()
        time.sleep(600)
    with open(os.environ["STARTS"], "a") as file:
        file.write(f"{member}\\n")
    return 2 * member

if __name__ == "__main__":
    with ScalableSession.from_yaml() as client:
        print(sum(client.gather(client.map(simulate, range(400), task="simulate"))))
"""


def test_a_killed_ensemble_of_400_members_starts_only_the_370_that_are_missing(
    url: str,
    project: Path,
    environment: dict[str, str],
    scalable: Callable[..., subprocess.CompletedProcess[str]],
    eventually: Callable[[Callable[[], bool]], bool],
) -> None:
    (project / "scalable.yaml").write_text(MANIFEST.format(url=url))
    (project / "workflow.py").write_text(WORKFLOW)
    hold, starts = project / "hold", project / "starts"
    environment |= {"HOLD": str(hold), "STARTS": str(starts)}
    hold.mkdir()
    with subprocess.Popen(
        [sys.executable, "-m", "scalable.cli", "run", "-w", "workflow.py"],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as run:
        assert eventually(lambda: len([*Store(url).results()]) == 30)
        assert eventually(lambda: any(hold.iterdir()))
        os.killpg(run.pid, signal.SIGKILL)
    for worker in hold.iterdir():
        with suppress(ProcessLookupError):
            os.kill(int(worker.name), signal.SIGKILL)
    hold.rename(project / "held")
    starts.unlink()
    (record,) = (project / ".scalable" / "runs").iterdir()
    resumed = scalable("resume", record.name, "--target", "second")
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stdout.splitlines()[-1] == str(2 * sum(range(400)))
    assert "simulate: 30 kept, 370 to do" in resumed.stderr
    members = [int(line) for line in starts.read_text().splitlines()]
    assert sorted(members) == [*range(30, 400)]
