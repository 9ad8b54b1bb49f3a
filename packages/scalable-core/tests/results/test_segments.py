"""Segments: many small results in one file, each of which is read as it was written, or not at all."""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import stat
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from results_user import User

from scalable.client import ScalableClient
from scalable.results import cached
from scalable.results.store import segments
from scalable.results.store.storage import DamagedResultError, Store, UntrustedStoreError

NAMES = [f"simulate/0123456789abcdef/{number:032x}" for number in range(20)]

is_root = os.getuid() == 0


def opened(directory: Path) -> Store:
    """Return the store of a directory as another process sees it."""
    store = Store(str(directory))
    store.open("me", create=True)
    return store


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def store(directory: Path) -> Store:
    return opened(directory)


def files(directory: Path) -> list[Path]:
    return sorted(directory.rglob("*.segment"))


def read(store: Store, names: list[str]) -> dict[str, Any]:
    """Return the results of those of some names that are found, read both ways."""
    found = store.find(names)
    one, together = store.read_result, store.reader(found)
    values = {name: together(name) for name in found}
    assert {name: one(name) for name in found} == values
    return values


def test_small_results_share_a_file(directory: Path, store: Store) -> None:
    sizes = {name: store.write_result(name, {"host": "h"}, [name]) for name in NAMES}
    (path,) = files(directory)
    assert path.stat().st_size == sum(sizes.values())
    assert not [*directory.rglob("*.result")]
    for mode, of in ((0o600, path), (0o700, path.parent)):
        assert stat.S_IMODE(of.stat().st_mode) == mode
    again = opened(directory)
    assert again.find(NAMES) == again.find(NAMES) == dict(again.results()) == sizes
    assert again.find(NAMES[:2]) == {name: sizes[name] for name in NAMES[:2]}
    assert read(again, NAMES) == {name: [name] for name in NAMES}
    assert opened(directory).read_header(NAMES[3])["host"] == "h"
    assert opened(directory).read_result(NAMES[3]) == [NAMES[3]]


def test_large_results_and_those_that_are_to_be_alone_have_a_file(
    directory: Path, store: Store
) -> None:
    store.write_result(NAMES[0], {}, "x" * segments.SMALL)
    store.write_result(NAMES[1], {}, 1, alone=True)
    assert not files(directory)
    store.write_result(NAMES[2], {}, 2)
    assert read(store, NAMES) == {NAMES[0]: "x" * segments.SMALL, NAMES[1]: 1, NAMES[2]: 2}


def test_what_was_written_meanwhile_is_found(directory: Path, store: Store) -> None:
    reader = opened(directory)
    for count, name in enumerate(NAMES, 1):
        assert reader.find([name]) == {}
        store.write_result(name, {}, count)
        assert len(reader.find(NAMES)) == count
        assert reader.read_result(name) == count


def test_a_full_segment_is_followed_by_another(
    directory: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "_FULL", 1000)
    for name in NAMES:
        store.write_result(name, {}, name)
    assert 5 < len(files(directory)) < 15
    assert read(opened(directory), NAMES) == {name: name for name in NAMES}


def test_no_damage_is_read_as_a_result(directory: Path, store: Store) -> None:
    values = {name: f"value {name[-2:]}" for name in NAMES[:3]}
    for name, value in values.items():
        store.write_result(name, {}, value)
    (path,) = files(directory)
    content = path.read_bytes()
    ends = [end for _, _, end in segments.scan(content)]
    for position in range(0, len(content), 3):
        changed = content[position] ^ 0x55
        path.write_bytes(content[:position] + bytes([changed]) + content[position + 1 :])
        store = opened(directory)
        good = {}
        for name in store.find(values):
            try:
                good[name] = store.read_result(name)
            except DamagedResultError:
                continue
        damaged = sum(position >= end for end in ends)
        assert good == {name: values[name] for i, name in enumerate(values) if i != damaged}
        # It is said when it is read, or when it is looked for, unless it could be one that is written now.
        assert damaged == 2 or len(store.find(values)) == 3 or store.damaged
    for length in range(0, len(content), 7):
        path.write_bytes(content[:length])
        whole = [*values][: sum(length >= end for end in ends)]
        assert read(opened(directory), [*values]) == {name: values[name] for name in whole}


def test_a_result_that_was_computed_again_is_read(directory: Path, store: Store) -> None:
    for name in NAMES:
        store.write_result(name, {}, name)
    (path,) = files(directory)
    content = bytearray(path.read_bytes())
    for _, _, end in segments.scan(bytes(content)):
        content[end - 1] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedResultError, match="its checksum differs"):
        opened(directory).read_result(NAMES[0])
    for _ in range(5):  # whichever segment is read first
        other = opened(directory)
        for name in NAMES:
            other.write_result(name, {}, name)
        assert read(opened(directory), NAMES) == {name: name for name in NAMES}
        files(directory)[-1].unlink()


def test_results_are_removed_from_segments(directory: Path, store: Store) -> None:
    for name in NAMES:
        store.write_result(name, {}, name)
    opened(directory).remove_results(NAMES[5:])
    assert [name for name, _ in opened(directory).results()] == NAMES[:5]
    store.write_result(NAMES[7], {}, 7)  # its segment is gone
    assert read(opened(directory), NAMES) == {**{n: n for n in NAMES[:5]}, NAMES[7]: 7}
    opened(directory).remove_results(NAMES)
    assert read(opened(directory), NAMES) == {}
    assert files(directory) == []


@pytest.mark.skipif(not is_root, reason="only root gives files to others")
def test_somebody_elses_segments_are_not_read_unless_they_are_trusted(
    directory: Path, store: Store
) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(directory / "was-run"),)

    store.write_result(NAMES[0], {}, Evil())
    (path,) = files(directory)
    reader = opened(directory)
    assert reader.find(NAMES[:1])
    for uid, mode in ((12345, 0o600), (0, 0o666)):
        os.chown(path, uid, -1)
        path.chmod(mode)
        store = opened(directory)
        assert store.find(NAMES) == {}
        assert store.refused == {str(path.relative_to(directory))}
        with pytest.raises(DamagedResultError, match="not in"):
            store.read_result(NAMES[0])
        with pytest.raises(UntrustedStoreError, match="trust_results: true"):
            reader.read_result(NAMES[0])
    assert not (directory / "was-run").exists()
    assert Store(str(directory), trusted=True).find(NAMES[:1])


def test_segments_that_were_copied_to_another_file_system_are_read(
    directory: Path, store: Store
) -> None:
    for name in NAMES:
        store.write_result(name, {}, name)
    MemoryFileSystem.store.clear()
    fsspec.filesystem("memory").put(f"{directory}/", "/copied/store/", recursive=True)
    for names in (NAMES, NAMES[:2]):
        assert read(opened_url("memory://copied/store"), names) == {name: name for name in names}
    remote = opened_url("memory://copied/store")
    remote.remove_results(NAMES[3:])
    assert [name for name, _ in opened_url("memory://copied/store").results()] == NAMES[:3]
    remote.write_result(NAMES[9], {}, 9)
    assert read(opened_url("memory://copied/store"), NAMES)[NAMES[9]] == 9
    MemoryFileSystem.store.clear()


def opened_url(url: str) -> Store:
    store = Store(url)
    store.open("me", create=False)
    return store


# -- Several processes


def run(directory: Path, script: str, **options: Any) -> subprocess.Popen[str]:
    lines = "import sys, itertools\nfrom scalable.results.store.storage import *\n"
    store = "store = Store(sys.argv[1])\nname = 'simulate/0123456789abcdef/{:032x}'.format\n"
    return subprocess.Popen(
        [sys.executable, "-c", lines + store + textwrap.dedent(script), str(directory)],
        stdout=subprocess.PIPE,
        text=True,
        **options,
    )


def test_a_writer_that_is_killed_loses_nothing_that_it_has_written(
    directory: Path, store: Store
) -> None:
    moments = random.Random(11)
    script = """
    for number in itertools.count(int({start})):
        store.write_result(name(number), {{}}, "x" * (number % 3000) + str(number))
        print(number, flush=True)
    """
    start, written = 0, []
    for _ in range(20):
        with run(directory, script.format(start=start)) as writer:
            assert writer.stdout is not None
            written.append(int(writer.stdout.readline()))
            time.sleep(moments.random() * 0.05)  # the moment of the kill
            writer.kill()
            # The last line may be cut off.
            written += [int(line) for line in writer.stdout.read().split("\n")[:-1]]
        start = written[-1] + 2
    names = {f"simulate/0123456789abcdef/{number:032x}": number for number in written}
    values = read(opened(directory), [*names])
    assert values == {name: "x" * (n % 3000) + str(n) for name, n in names.items()}
    assert 20 <= len(files(directory)) <= 40
    assert opened(directory).damaged == set()


def test_writers_lose_nothing_while_others_write_and_remove(directory: Path, store: Store) -> None:
    script = """
    for number in range({start}, {start} + 1500):
        store.write_result(name(number), {{}}, number)
    """
    removed: set[str] = set()
    with (
        run(directory, script.format(start=0)) as one,
        run(directory, script.format(start=1500)) as two,
    ):
        while one.poll() is None or two.poll() is None:
            remover = opened(directory)
            there = [name for name, _ in remover.results() if int(name[-3:], 16) % 7 == 0]
            remover.remove_results(there)
            removed.update(there)
    assert [one.returncode, two.returncode] == [0, 0]
    assert removed
    found = read(opened(directory), [f"simulate/0123456789abcdef/{n:032x}" for n in range(3000)])
    lost = {*range(3000)} - {*found.values()}
    assert {f"simulate/0123456789abcdef/{number:032x}" for number in lost} == removed


def test_a_full_disk_leaves_the_segment_as_it_was(directory: Path, store: Store) -> None:
    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))

    script = """
    for number in range(20):
        try:
            store.write_result(name(number), {}, "x" * 100)
        except StoreError as error:
            print(number, error)
    """
    output, _ = run(directory, script, preexec_fn=limit).communicate(timeout=60)
    number, _, error = output.splitlines()[0].partition(" ")
    assert error == f"cannot write to {directory}: File too large"
    assert read(opened(directory), NAMES) == dict.fromkeys(NAMES[: int(number)], "x" * 100)
    assert sum(path.stat().st_size for path in files(directory)) < 3000


# -- Runs


def test_what_is_damaged_is_said_and_computed_again(
    user: User, connect: Callable[..., ScalableClient]
) -> None:
    simulate = cached(user.module.simulate)
    client = connect(user.results())
    client.gather(client.map(simulate, range(12)))
    assert not user.files()
    (path,) = files(user.store)
    content = path.read_bytes()
    places = [*segments.scan(content)]
    shutil.copy(path, path.with_suffix(".kept"))
    _, begin, _ = places[3]
    _, _, end = places[7]
    path.write_bytes(
        content[: begin + 5] + b"?" + content[begin + 6 : end - 1] + b"?" + content[end:]
    )
    user.starts()
    client = connect(user.results())
    futures = client.map(simulate, range(12))
    assert client.gather(futures) == [2 * member for member in range(12)]
    assert len(user.starts()) == 2
    said = [text for text in user.messages if "computed again" in text]
    assert len(said) == 2
    assert said[0].startswith(f"segments of results at {user.store} are damaged in part: simulate/")
    assert said[1].endswith("its checksum differs; it is computed again")
    client = connect(user.results())
    assert client.gather(client.map(simulate, range(12))) == [2 * member for member in range(12)]
    assert user.starts() == []
