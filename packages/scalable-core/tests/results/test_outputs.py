"""Files that tasks write: checked, kept, and restored where they are needed."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pwd
import stat
import tarfile
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from distributed import LocalCluster
from fsspec.implementations.memory import MemoryFileSystem
from outputs_machine import LARGE, NAME, Machine, restore_many
from results_user import User

from scalable.client import ScalableClient
from scalable.errors import ResultStoreError
from scalable.results.naming import TaskRule
from scalable.results.reuse import OutputChecks, open_results
from scalable.results.store.outputs import (
    DamagedOutputError,
    check_outputs,
    expand,
    fields_of,
    keep_outputs,
    remove_outputs,
    restore_outputs,
)
from scalable.results.store.storage import Store

Connect = Callable[..., ScalableClient]

MODEL = """
import os


def simulate(member, directory, forget=False):
    with open(os.path.join(directory, "starts"), "a") as file:
        file.write(f"{member}\\n")
    path = f"{directory}/out/{member}.csv"
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if not forget:
        with open(path, "w") as file:
            file.write(f"member {member}\\n")
    os.makedirs(f"{directory}/out/{member}-db/sub", exist_ok=True)
    with open(f"{directory}/out/{member}-db/sub/x", "w") as file:
        file.write(str(member))
    return member


def read(member, directory):
    with open(f"{directory}/out/{member}.csv") as file:
        text = file.read()
    with open(f"{directory}/out/{member}-db/sub/x") as file:
        return text + file.read()


def read_all(members, directory):
    return [read(member, directory) for member in members]
"""

OUTPUTS = (
    ("database", "{directory}/out/{member}-db"),
    ("table", "{directory}/out/{member}.csv"),
)
TASKS = {"simulate": "gcam", "read": "gcam"}


@pytest.fixture
def work(tmp_path: Path) -> Path:
    directory = tmp_path / "work"
    directory.mkdir()
    return directory


@pytest.fixture
def run(user: User, connect: Connect) -> Connect:
    user.write(MODEL)

    def run(**rule: Any) -> ScalableClient:
        rules = {"simulate": TaskRule(outputs=OUTPUTS, **rule), "read": TaskRule()}
        return connect(user.results(tasks=rules), tasks=TASKS)

    return run


def lose(work: Path) -> list[str]:
    """Remove what tasks have written, as another machine lacks it, and return which members have started."""
    starts = (work / "starts").read_text().split() if (work / "starts").exists() else []
    for path in sorted(work.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    return sorted(starts)


def test_files_are_restored_for_the_next_task_and_for_the_user(
    user: User, run: Connect, work: Path, tmp_path: Path
) -> None:
    where = str(work)
    client = run()
    futures = client.map(user.module.simulate, range(3), directory=where, task="simulate")
    assert client.gather(futures) == [0, 1, 2]
    assert lose(work) == ["0", "1", "2"]

    expected = [f"member {member}\n{member}" for member in range(3)]
    client = run()
    futures = client.map(user.module.simulate, range(3), directory=where, task="simulate")
    read = user.module.read
    assert client.submit(read, futures[1], where, tag="gcam").result() == expected[1]
    assert sorted(path.name for path in (work / "out").iterdir()) == ["1-db", "1.csv"]
    assert client.gather(client.map(read, futures, directory=where)) == expected
    lose(work)
    assert client.gather(client.map(read, futures, directory=where, task="read")) == expected
    lose(work)
    assert client.submit(user.module.read_all, futures, where).result() == expected
    assert not (work / "starts").exists()

    lose(work)
    paths = client.restore_outputs(futures[0], tmp_path / "mine")
    assert Path(paths["table"]) == tmp_path / "mine" / f"{where}/out/0.csv".lstrip("/")
    assert Path(paths["table"]).read_text() == "member 0\n"
    (paths,) = client.restore_outputs([futures[2]])
    assert paths["table"] == f"{where}/out/2.csv"
    assert (work / "out" / "2-db" / "sub" / "x").read_text() == "2"


def test_files_are_restored_in_the_same_run_too(user: User, run: Connect, work: Path) -> None:
    client = run()
    future = client.submit(user.module.simulate, 4, str(work), task="simulate")
    future.result()
    lose(work)
    assert client.submit(user.module.read, future, str(work)).result() == "member 4\n4"


def test_a_task_without_its_output_has_failed(
    user: User, run: Connect, work: Path, connect: Connect
) -> None:
    message = r"task simulate has not written its output 'table': there is no .*/out/1\.csv in "
    for _ in range(2):
        client = run()
        future = client.submit(user.module.simulate, 1, str(work), True, task="simulate")
        with pytest.raises(FileNotFoundError, match=message):
            future.result()
        assert user.objects() == []
    assert lose(work) == ["1", "1"]

    client = connect(None, tasks=TASKS)
    client.outputs = OutputChecks({"simulate": dict(OUTPUTS)})
    future = client.submit(user.module.simulate, 1, str(work), True, task="simulate")
    with pytest.raises(FileNotFoundError, match=message):
        future.result()
    good = client.map(user.module.simulate, [1, 2], directory=str(work), task="simulate")
    assert client.gather(good) == [1, 2]
    assert str(good[0].key).startswith("gcam.simulate-")
    with pytest.raises(ResultStoreError, match="no outputs are kept"):
        client.restore_outputs(good[0])


def test_damaged_or_lost_files_are_computed_again(user: User, run: Connect, work: Path) -> None:
    client = run()
    client.submit(user.module.simulate, 1, str(work), task="simulate").result()
    for damage in ("changed", "gone"):
        lose(work)
        (kept,) = user.store.rglob("*.table.output")
        if damage == "changed":
            kept.write_bytes(b"X" * kept.stat().st_size)
        else:
            kept.unlink()
        client = run()
        future = client.submit(user.module.simulate, 1, str(work), task="simulate")
        read = client.submit(user.module.read, future, str(work))
        assert read.result() == "member 1\n1"
        assert lose(work) == ["1"]


def test_other_outputs_are_another_version(user: User, run: Connect, work: Path) -> None:
    rule = TaskRule(outputs=OUTPUTS[1:])
    client = run()
    client.submit(user.module.simulate, 1, str(work), task="simulate").result()
    results = open_results(str(user.store), {"simulate": rule})
    client.keep_results(results)
    client.submit(user.module.simulate, 1, str(work), task="simulate").result()
    assert lose(work) == ["1", "1"]


def test_a_file_that_is_there_is_left_as_it_is(user: User, run: Connect, work: Path) -> None:
    client = run()
    future = client.submit(user.module.simulate, 1, str(work), task="simulate")
    future.result()
    table = work / "out" / "1.csv"
    os.utime(table, (1, 1))
    extra = work / "out" / "1-db" / "mine"
    extra.touch()
    (work / "out" / "1-db" / "sub" / "x").write_text("other")
    client.restore_outputs(future)
    assert table.stat().st_mtime == 1
    assert (work / "out" / "1-db" / "sub" / "x").read_text() == "1"
    assert extra.exists()


def test_paths_name_arguments(user: User, cluster: LocalCluster, connect: Connect) -> None:
    rules = {"simulate": TaskRule(outputs=(("table", "{membr}.csv"),))}
    client = connect(user.results(tasks=rules), tasks=TASKS)
    with pytest.raises(ValueError, match=r"tasks\.simulate\.outputs\.table is \{membr\}\.csv, and"):
        client.submit(user.module.simulate, 1, task="simulate")
    assert fields_of("a/{b}") == ["b"]
    for path in ("{", "{a.b}", "{}", "{a[0]}"):
        with pytest.raises(ValueError, match="braces are for names of arguments"):
            fields_of(path)

    def simulate(member: str) -> None: ...

    with pytest.raises(ValueError, match=r"leave out '\.\.'"):
        expand({"table": "{member}/x"}, simulate, ("../..",), {})


@pytest.mark.parametrize("url", ["{tmp}/store", "memory://{tmp}/store"])
def test_files_are_kept_in_any_store(url: str, tmp_path: Path) -> None:
    store = Store(url.format(tmp=tmp_path))
    store.open("me", create=True)
    table, database = tmp_path / "out" / "1.csv", tmp_path / "out" / "db"
    database.mkdir(parents=True)
    table.write_text("member 1\n")
    (database / "x").write_text("1")
    paths = {"table": str(table), "database": str(database)}
    keep_outputs(store, NAME, "simulate", paths)
    check_outputs(store, NAME, content=True)
    restored = restore_outputs(store, NAME, str(tmp_path / "to"))
    assert Path(restored["table"]).read_text() == "member 1\n"
    assert (Path(restored["database"]) / "x").read_text() == "1"
    store.write_bytes(f"{NAME}.table.output", b"member 2\n")
    check_outputs(store, NAME, content=False)
    with pytest.raises(OSError, match=r"output 'table' of simulate/.* is damaged: its checksum"):
        check_outputs(store, NAME, content=True)
    store.remove(f"{NAME}.database.output")
    with pytest.raises(OSError, match=r"output 'database' of simulate/.* is damaged, or not there"):
        check_outputs(store, NAME, content=False)
    remove_outputs(store, NAME)
    assert store.size(f"{NAME}.outputs") == -1


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_what_is_restored_is_what_was_written(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    store.open("me", create=True)
    program, run = tmp_path / "out" / "model", tmp_path / "out" / "run"
    (run / "v1").mkdir(parents=True)
    program.write_text("#!/bin/sh")
    program.chmod(0o755)
    (run / "v1" / "x").write_text("1")
    for name, mode in (("shared", 0o664), ("script", 0o750), ("fixed", 0o444)):
        (run / name).write_text(name)
        (run / name).chmod(mode)
    links = {"latest": "v1", "input": "/data/input.nc", "beside": "../model", "lost": "nowhere"}
    for name, target in links.items():
        (run / name).symlink_to(target)
    os.mkfifo(run / "pipe")
    (run / "empty").mkdir()
    (run / "v1").chmod(0o555)

    keep_outputs(store, NAME, "simulate", {"program": str(program), "run": str(run)})
    for _ in range(2):  # the second time it is there already
        restored = restore_outputs(store, NAME, str(tmp_path / "to"))
        again = Path(restored["run"])
        assert mode_of(Path(restored["program"])) == 0o755
        modes = [mode_of(again / name) for name in ("shared", "script", "fixed")]
        assert modes == [0o664, 0o750, 0o444]
        assert {name: str((again / name).readlink()) for name in links} == links
        assert (again / "latest" / "x").read_text() == "1"
        assert (again / "empty").is_dir()
        assert not (again / "pipe").exists()
        assert (again / "shared").stat().st_mtime > 1e9  # or a site that removes old files does
        os.utime(again / "shared", (2e9, 2e9))
    assert (again / "shared").stat().st_mtime == 2e9, "it was there, and was written again"
    (run / "v1").chmod(0o755)


def test_an_archive_writes_nothing_elsewhere(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    store.open("me", create=True)
    (tmp_path / "out").mkdir()
    keep_outputs(store, NAME, "simulate", {"run": str(tmp_path / "out")})
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "file").touch()
    to_victim, hard = (tarfile.SYMTYPE, str(victim)), (tarfile.LNKTYPE, "../../../victim/file")
    plain = (tarfile.REGTYPE, "")
    for entries in (
        {"../../../victim/x": plain},
        {str(victim / "x"): plain},
        {"link": to_victim, "link/x": plain},
        {"link": hard},
    ):
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            for name, (kind, target) in entries.items():
                entry = tarfile.TarInfo(name)
                entry.type, entry.linkname = kind, target
                tar.addfile(entry)
        content = archive.getvalue()
        store.write_bytes(f"{NAME}.run.output", content)
        digest = hashlib.sha256(content).hexdigest()
        facts = {"path": str(tmp_path / "to"), "kind": "directory"}
        index = {"run": {**facts, "size": len(content), "sha256": digest}}
        store.write_bytes(f"{NAME}.outputs", json.dumps(index).encode())
        with pytest.raises(DamagedOutputError, match="the archive cannot be unpacked"):
            restore_outputs(store, NAME)
        assert [*victim.iterdir()] == [victim / "file"]
        assert (victim / "file").stat().st_nlink == 1


# -- Copies on the machine


@pytest.fixture(params=["local", "memory"])
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Machine]:
    MemoryFileSystem.store.clear()
    yield Machine(
        str(tmp_path / "store") if request.param == "local" else "memory://outputs/store", tmp_path
    )
    MemoryFileSystem.store.clear()


def test_files_are_restored_from_copies_on_the_machine(machine: Machine) -> None:
    machine.run()
    for path in (machine.copies.parent, *machine.copies.parent.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
    written = sorted(machine.copies.rglob("*.output"))
    assert [path.name for path in written] == [
        f"{NAME.rpartition('/')[2]}.{output}.output" for output in ("database", "table")
    ]
    assert not machine.restore()
    for path in written:
        path.unlink()
    assert machine.restore() == 2  # which copies what it has read
    assert sorted(machine.copies.rglob("*.output")) == written
    assert not machine.restore()
    assert machine.told == []


def test_a_user_without_a_home_gets_no_copies_and_is_told(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not a directory of the name ~ where the worker is."""

    def is_unknown(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", is_unknown)
    monkeypatch.chdir(machine.directory)
    machine.copies = Path("~/copies")
    machine.run()
    assert machine.restore() == 2
    for told in machine.told:  # by each of the two workers
        assert told.startswith("copies of results (local_cache): ~/copies needs a home directory")
        assert "set HOME in the env of the component, or name an absolute path" in told
    assert len(machine.told) == 2
    assert not Path("~").exists()


def test_small_files_are_not_copied(machine: Machine) -> None:
    machine.database.parent.mkdir()
    machine.table.write_text("small")
    keep_outputs(machine.worker(), NAME, "simulate", {"table": str(machine.table)})
    restore_outputs(machine.worker(), NAME, str(machine.directory / "to"))
    assert not machine.copies.exists()


def test_copies_of_other_content_are_replaced(machine: Machine) -> None:
    """As of the same call, computed again on another machine."""
    machine.run(LARGE.replace("1", "2"))
    machine.table.write_text(LARGE)
    (machine.database / "x").write_text(LARGE)
    keep_outputs(Store(machine.url, trusted=True), NAME, "simulate", machine.paths)
    assert machine.restore() == 2
    assert not machine.restore()


@pytest.mark.parametrize(
    "how", ["cut", "damaged", "of another", "everybody's", "directory of another"]
)
def test_copies_that_cannot_be_trusted_are_not_restored(machine: Machine, how: str) -> None:
    machine.run()
    written = [*machine.copies.rglob("*.output")]
    if how == "directory of another":
        written = [machine.copies / machine.store_id]
    for path in written:
        if how == "cut":
            path.write_bytes(path.read_bytes()[:-1])
        elif how == "damaged":
            path.write_bytes(path.read_bytes()[:-1] + b"x")
        elif how == "everybody's":
            path.chmod(0o666)
        elif os.getuid() != 0:
            pytest.skip("only root gives files to others")
        else:
            os.chown(path, 12345, -1)
    assert machine.restore() == 2
    if how == "directory of another":
        assert machine.told == [
            f"copies of results (local_cache): {written[0]} belongs to user 12345; the run goes on without"
        ]
    else:
        assert not machine.restore()


def test_copies_of_files_that_cannot_be_written_are_told_of_once(machine: Machine) -> None:
    machine.copies.parent.mkdir()
    machine.copies.write_text("")
    machine.run()
    assert machine.told == [
        f"copies of results (local_cache): cannot write to {machine.copies}: Not a directory; "
        "the run goes on without"
    ]
    assert machine.restore() == 2


def test_two_workers_that_copy_the_same_do_no_harm(tmp_path: Path) -> None:
    machine = Machine(str(tmp_path / "store"), tmp_path)
    machine.run()
    spawn = get_context("spawn")
    workers = [
        spawn.Process(target=restore_many, args=(machine.url, tmp_path, number))
        for number in range(2)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=120)
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert machine.restore() == 2
    assert not machine.restore()
    assert sorted(path.suffix for path in machine.copies.rglob("*") if path.is_file()) == [
        ".output",
        ".output",
    ]


LARGE_MODEL = """
def simulate(member, directory):
    with open(f"{directory}/{member}.csv", "w") as file:
        file.write("member" * 20_000)


def read(member, path):
    with open(path) as file:
        return file.read()
"""


def test_workers_restore_from_copies(
    user: User, connect: Connect, work: Path, tmp_path: Path
) -> None:
    user.write(LARGE_MODEL)
    url, copies = f"memory:/{tmp_path}/store", tmp_path / "copies"
    rules = {"simulate": TaskRule(outputs=(("table", "{directory}/{member}.csv"),))}
    client = connect(open_results(url, rules, copies=str(copies)), tasks=TASKS)
    future = client.submit(user.module.simulate, 1, str(work), task="simulate")
    future.result()
    assert [path.suffix for path in copies.rglob("*") if path.is_file()] == [".output"]
    (kept,) = MemoryFileSystem().glob(f"{tmp_path}/store/*/*/*.table.output")
    MemoryFileSystem().pipe_file(kept, b"X" * 120_000)  # whoever reads this fails
    lose(work)
    path = str(work / "1.csv")
    assert client.submit(user.module.read, future, path).result() == "member" * 20_000
