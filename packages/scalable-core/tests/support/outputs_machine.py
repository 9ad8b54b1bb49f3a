"""A machine whose workers keep copies of what they store and restore, for tests in several processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scalable.results.store.outputs import keep_outputs, restore_outputs
from scalable.results.store.storage import Store

__all__ = ["LARGE", "NAME", "Machine", "restore_many"]

NAME = "simulate/0123456789abcdef/00112233445566778899aabbccddeeff"
LARGE = "member 1\n" * 10_000


class Machine:
    """A machine with workers: where their files and their copies are, and what they tell."""

    def __init__(self, url: str, directory: Path) -> None:
        self.url, self.directory, self.copies = url, directory, directory / "cache" / "copies"
        self.told: list[str] = []
        self.store_id = Store(url).open("me", create=True)["id"]
        self.table, self.database = directory / "out" / "1.csv", directory / "out" / "db"
        self.paths = {"table": str(self.table), "database": str(self.database)}

    def worker(self) -> Store:
        """Return the store as a new worker has it."""
        copies = str(self.copies)
        return Store(
            self.url, trusted=True, store_id=self.store_id, copies=copies, tell=self.told.append
        )

    def run(self, content: str = LARGE) -> None:
        """Write and keep what a task writes."""
        self.database.mkdir(parents=True)
        self.table.write_text(content)
        (self.database / "x").write_text(content)
        keep_outputs(self.worker(), NAME, "simulate", self.paths)

    def restore(self) -> int:
        """Restore the files in a new worker, look at them, and remove them; return how many the store has given."""
        store: Any = self.worker()
        get_file, read = store.get_file, []

        def count(name: str, path: str) -> None:
            read.append(name)
            get_file(name, path)

        store.get_file = count
        to = self.directory / "to"
        restored = restore_outputs(store, NAME, str(to))
        for path in (Path(restored["table"]), Path(restored["database"]) / "x"):
            assert path.read_text() == LARGE
            path.unlink()
        return len(read)


def restore_many(url: str, directory: Path, number: int) -> None:
    """Restore the files and remove the copies time and again, as one of several workers of a machine."""
    machine = Machine(url, directory)
    machine.directory = directory / str(number)
    for _ in range(20):
        machine.restore()
        for path in machine.copies.rglob("*.output"):
            path.unlink(missing_ok=True)
    assert machine.told == []
