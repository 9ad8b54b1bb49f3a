"""The store: what is read is what was written, or an error that says what to do."""

from __future__ import annotations

import os
import random
import resource
import signal
import stat
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from fsspec.implementations.memory import MemoryFileSystem

from scalable.errors import ResultStoreError
from scalable.results.reuse import open_results
from scalable.results.store import objects
from scalable.results.store.storage import (
    MARKER,
    DamagedResultError,
    Store,
    StoreError,
    UntrustedStoreError,
)

NAME = "simulate/0123456789abcdef/00112233445566778899aabbccddeeff"

is_root = os.getuid() == 0


class SlowNames(MemoryFileSystem):  # type: ignore[misc]
    """A file system whose objects are seen while they are written."""

    protocol = "slownames"
    store: dict[str, Any] = {}  # noqa: RUF012 - as in the base class


@pytest.fixture(params=["local", "memory", "slownames"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    fsspec.register_implementation("slownames", SlowNames, clobber=True)
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]
    SlowNames.store.clear()
    yield str(tmp_path / "store") if request.param == "local" else f"{request.param}://kept/store"
    MemoryFileSystem.store.clear()


@pytest.fixture
def store(url: str) -> Store:
    store = Store(url)
    store.open("me", create=True)
    return store


VALUES: list[Any] = [
    None,
    {"a": [1, 2.5, "é"]},
    b"x" * 100,
    np.arange(100_000).reshape(1000, 100),
    np.arange(24).reshape(4, 6)[::2, ::3],
    np.array(["a", None], dtype=object),
    pd.DataFrame({"a": np.arange(50.0), "b": ["x"] * 50}),
    xr.DataArray(np.ones((3, 4)), dims=("x", "y"), attrs={"units": "K"}),
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_what_is_read_is_what_was_written(store: Store, value: Any) -> None:
    size = store.write_result(NAME, {"host": "here"}, value)
    read = store.read_result(NAME)
    assert type(read) is type(value)
    if hasattr(value, "equals"):
        assert value.equals(read)
    else:
        np.testing.assert_array_equal(read, value)
    assert store.find([NAME]) == {NAME: size}
    header = store.read_header(NAME)
    assert (header["name"], header["host"]) == (NAME, "here")
    assert header["versions"]["python"].startswith("3.")
    assert [*store.partial()] == []


def test_large_arrays_are_not_copied(tmp_path: Path) -> None:
    value = np.zeros(1000)
    pickled, *buffers = objects.pickled(value)
    assert len(pickled) < 1000
    (buffer,) = buffers
    assert np.shares_memory(np.frombuffer(buffer, dtype=value.dtype), value)


def test_results_are_found_and_removed(store: Store) -> None:
    names = [f"a/b/{number:032x}" for number in range(30)]
    for name in names[:20]:
        store.write_result(name, {}, 1)
    assert {*store.find(names)} == {*names[:20]}
    assert {*store.find(names[18:22])} == {*names[18:20]}
    assert store.find(["a/c/0", "d/e/1"]) == {}
    assert [name for name, _ in store.results()] == names[:20]
    assert [name for name, _ in store.results("a/b")] == names[:20]
    store.remove_results(names[:1])
    store.remove_results(names[:1])
    assert {*store.find(names)} == {*names[1:20]}
    with pytest.raises(DamagedResultError, match="not in"):
        store.read_result(names[0])
    with pytest.raises(DamagedResultError, match="not in"):
        store.read_header(names[0])


def test_every_truncation_and_every_flipped_byte_is_seen(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.open("me", create=True)
    store.write_result(NAME, {}, {"a": np.arange(5)}, alone=True)
    path = tmp_path / f"{NAME}.result"
    content = path.read_bytes()
    for length in range(0, len(content), 7):
        path.write_bytes(content[:length])
        with pytest.raises(DamagedResultError):
            store.read_result(NAME)
    for position in range(len(content)):
        path.write_bytes(
            content[:position] + bytes([content[position] ^ 0x55]) + content[position + 1 :]
        )
        with pytest.raises(DamagedResultError):
            store.read_result(NAME)


def test_a_result_under_another_name_is_not_read(store: Store) -> None:
    store.write_result(NAME, {}, 1, alone=True)
    other = NAME.replace("00", "01")
    content = store.read_bytes(f"{NAME}.result")
    assert content is not None
    store.write_bytes(f"{other}.result", content)
    with pytest.raises(DamagedResultError, match="it is simulate"):
        store.read_result(other)


def copies_of(store: Store, url: str, directory: Path) -> tuple[Store, list[Any], list[str]]:
    """Return the store as a worker with copies sees it, what it reads whole, and what it tells."""
    read: list[str] = []
    told: list[str] = []
    worker: Any = Store(
        url, trusted=True, store_id=store.store_id, copies=str(directory), tell=told.append
    )
    read_bytes = worker.read_bytes

    def count(name: str, *part: int) -> bytes | None:
        read.append(name)
        content: bytes | None = read_bytes(name, *part)
        return content

    worker.read_bytes = count
    return worker, read, told


def test_copies_are_read_in_place_of_what_the_store_has(
    url: str, store: Store, tmp_path: Path
) -> None:
    value, small = np.arange(50_000), NAME.replace("00", "22")
    worker, read, told = copies_of(store, url, tmp_path / "copies")
    worker.write_result(NAME, {}, value)
    worker.write_result(small, {}, 1, alone=True)
    assert (worker.read_result(NAME) == value).all()
    assert read == []
    assert worker.read_result(small) == 1
    (path,) = (tmp_path / "copies").rglob("*.result")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.unlink()
    for _ in range(2):  # a copy of what is read, too
        assert (worker.read_result(NAME) == value).all()
    assert read == [f"{small}.result", f"{NAME}.result"]
    assert told == []


def test_copies_of_what_the_store_has_no_longer_are_not_read(
    url: str, store: Store, tmp_path: Path
) -> None:
    worker, read, _ = copies_of(store, url, tmp_path / "copies")
    worker.write_result(NAME, {}, np.zeros(50_000))
    store.write_result(NAME, {}, np.ones(50_000))  # by another machine
    assert worker.read_result(NAME).all()
    assert read == [f"{NAME}.result"]
    store.remove(f"{NAME}.result")
    with pytest.raises(DamagedResultError, match="not in"):
        worker.read_result(NAME)


@pytest.mark.parametrize("how", ["damaged", "of another", "everybody's"])
def test_copies_that_cannot_be_trusted_are_not_read(
    url: str, store: Store, tmp_path: Path, how: str
) -> None:
    worker, read, _ = copies_of(store, url, tmp_path / "copies")
    worker.write_result(NAME, {}, np.ones(50_000))
    (path,) = (tmp_path / "copies").rglob("*.result")
    if how == "damaged":
        path.write_bytes(path.read_bytes()[:-1] + b"x")
    elif how == "everybody's":
        path.chmod(0o666)
    elif not is_root:
        pytest.skip("only root gives files to others")
    else:
        os.chown(path, 12345, -1)
    assert worker.read_result(NAME).all()
    assert read == [f"{NAME}.result"]


def test_copies_that_cannot_be_written_are_told_of_once(
    url: str, store: Store, tmp_path: Path
) -> None:
    (tmp_path / "copies").write_text("")
    worker, _, told = copies_of(store, url, tmp_path / "copies")
    for number in range(2):
        worker.write_result(NAME, {}, np.full(50_000, number))
    assert (worker.read_result(NAME) == 1).all()
    assert told == [
        f"copies of results (local_cache): cannot write to {tmp_path / 'copies'}: Not a directory; "
        "the run goes on without"
    ]


def test_a_result_that_cannot_be_pickled_leaves_nothing(store: Store) -> None:
    with pytest.raises(TypeError):
        store.write_result(NAME, {}, sys.stdout)
    assert store.find([NAME]) == {}


# -- Whose it is


def test_a_store_knows_itself(url: str, store: Store) -> None:
    again = Store(url)
    assert again.open("me", create=False)["id"] == store.store_id
    again.check_same()
    with pytest.raises(StoreError, match="is not the directory that the client uses; set project"):
        Store(url, store_id="other").check_same()
    with pytest.raises(StoreError, match="is not the directory that the client uses"):
        Store(f"{url}-other", store_id=store.store_id).check_same()


def test_somebody_elses_store_is_not_read_unless_it_is_trusted(url: str, store: Store) -> None:
    with pytest.raises(
        UntrustedStoreError, match=r"those of 'me', not of 'you'.*trust_results: true"
    ):
        Store(url).open("you", create=True)
    assert Store(url, trusted=True).open("you", create=True)["owner"] == "me"


@pytest.mark.skipif(not is_root, reason="only root gives files to others")
def test_somebody_elses_files_are_not_read_unless_they_are_trusted(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "was-run"),)

    store = Store(str(tmp_path / "store"))
    store.open("me", create=True)
    store.write_result(NAME, {}, Evil(), alone=True)
    path = tmp_path / "store" / f"{NAME}.result"
    many = [NAME, *(NAME[:-2] + f"{number:02}" for number in range(20))]
    for uid, mode in ((12345, 0o600), (0, 0o666)):
        os.chown(path, uid, -1)
        path.chmod(mode)
        store = Store(str(tmp_path / "store"))
        store.open("me", create=True)
        assert store.find([NAME]) == store.find(many) == {}
        assert store.refused == {NAME}
        for read in (store.read_result, store.read_header, store.check_result):
            with pytest.raises(UntrustedStoreError, match=r"trust_results: true"):
                read(NAME)
    assert not (tmp_path / "was-run").exists()
    trusted = Store(str(tmp_path / "store"), trusted=True)
    assert {*trusted.find([NAME])} == {*trusted.find(many)} == {NAME}
    os.chown(tmp_path / "store", 12345, -1)
    with pytest.raises(UntrustedStoreError, match="belongs to user 12345"):
        Store(str(tmp_path / "store")).open("me", create=True)


def test_a_directory_that_everybody_can_write_is_not_read(tmp_path: Path) -> None:
    Store(str(tmp_path)).open("me", create=True)
    tmp_path.chmod(0o777)
    with pytest.raises(UntrustedStoreError, match="can be written by everybody"):
        Store(str(tmp_path)).open("me", create=True)


def test_only_the_user_can_read_what_is_written(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    store.open("me", create=True)
    store.write_result(NAME, {}, 1)
    for path in (tmp_path / "store").rglob("*"):
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600), path


# -- Faults


def test_stores_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for url, why in (
        ("/proc/results", "cannot write to /proc/results: "),
        (str(tmp_path / "file"), "cannot read results at .*: Not a directory"),
        ("nosuchprotocol://x", "cannot use nosuchprotocol://x: Protocol not known"),
    ):
        with pytest.raises(ResultStoreError, match=why) as raised:
            open_results(url)
        assert "\n" not in str(raised.value)


def test_a_damaged_marker_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / MARKER).write_text("{")
    with pytest.raises(StoreError, match="is damaged; use another directory, or remove it"):
        Store(str(tmp_path)).open("me", create=True)
    (tmp_path / MARKER).write_text('{"format": 9, "id": "x", "owner": "me"}')
    with pytest.raises(StoreError, match="have format 9, and this version reads 1"):
        Store(str(tmp_path)).open("me", create=True)


def run(directory: Path, script: str, **options: Any) -> subprocess.Popen[str]:
    lines = "from scalable.results.store.storage import *\nimport numpy as np\nstore = Store(sys.argv[1])\n"
    path = directory / "script.py"
    path.write_text(f"import sys\n{lines}{textwrap.dedent(script)}")
    return subprocess.Popen(
        [sys.executable, str(path), str(directory / "store")],
        stdout=subprocess.PIPE,
        text=True,
        **options,
    )


def test_a_writer_that_is_killed_never_leaves_a_wrong_result(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    store.open("me", create=True)
    moments = random.Random(7)
    seen = set()
    for _ in range(20):
        writer = run(
            tmp_path,
            f"""
            import itertools
            for number in itertools.count(1):
                store.write_result({NAME!r}, {{}}, [number, np.full(200_000, number)])
                if number == 1:
                    print(flush=True)
            """,
        )
        with writer:
            assert writer.stdout is not None
            writer.stdout.readline()
            time.sleep(moments.random() * 0.2)  # the moment of the kill, not a wait for anything
            writer.kill()
        number, array = store.read_result(NAME)
        assert (array == number).all()
        assert len(array) == 200_000
        seen.add(number)
    assert len(seen) > 1
    for name in store.partial():
        store.remove(name)
    assert [name for name, _ in store.results()] == [NAME]


def test_two_writers_at_once_leave_one_result(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    store.open("me", create=True)
    script = f"""
    for number in range(200):
        store.write_result({NAME!r}, {{}}, [number, np.full(10_000, number)])
    """
    writers = [run(tmp_path, script) for _ in range(2)]
    with writers[0], writers[1]:
        while any(writer.poll() is None for writer in writers):
            if store.find([NAME]):
                number, array = store.read_result(NAME)
                assert (array == number).all()
    assert [writer.returncode for writer in writers] == [0, 0]
    assert [*store.partial()] == []


def test_a_full_disk_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    Store(str(tmp_path / "store")).open("me", create=True)

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    done = run(
        tmp_path,
        f"""
        try:
            store.write_result({NAME!r}, {{}}, np.zeros(100_000))
        except StoreError as error:
            print(error)
        """,
        preexec_fn=limit,
    )
    output, _ = done.communicate(timeout=60)
    assert output.strip() == f"cannot write to {tmp_path / 'store'}: File too large"
    assert [path.name for path in (tmp_path / "store").rglob("*") if path.is_file()] == [MARKER]


def test_a_link_to_a_directory_that_is_gone_is_named(tmp_path: Path) -> None:
    (tmp_path / "results").symlink_to(tmp_path / "purged")
    for url in (tmp_path / "results", tmp_path / "results" / "mine"):
        with pytest.raises(StoreError, match=r"cannot write to .*: No such file or directory"):
            Store(str(url)).open("me", create=True)
