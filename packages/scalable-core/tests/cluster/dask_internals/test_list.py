"""docs/extending/dask.md lists all that we need of Dask beyond its public interface, and each name has a test."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import distributed
import pytest
from distributed import Client

from scalable.client import ScalableClient

ROOT = Path(__file__).parents[5]
PAGE = ROOT / "docs/extending/dask.md"
TESTS = [
    *ROOT.glob("packages/*/tests/test_dask_internals.py"),
    *Path(__file__).parent.glob("test_*.py"),
]
SOURCES = sorted(ROOT.glob("packages/*/src/**/*.py"))

OVERRIDDEN = {
    "_start",
    "_close",
    "_ensure_connected",
    "_gather",
    "_gather_remote",
    "_handle_key_in_memory",
    "_handle_restart",
    "_handle_task_erred",
    "_release_key",
    "_scatter",
    "_send_to_scheduler_safe",
    "_reconnect",
    "_send_to_scheduler",
    "_graph_to_futures",
    "_get_computation_code",
}
"""Private methods of Dask's client that ours overrides."""

needs_repository = pytest.mark.skipif(not PAGE.exists(), reason="not in the repository")


def listed() -> set[str]:
    """Return the names in the tables of the page: the first cell of each row."""
    return set(re.findall(r"^\| `([^`]+)` \|", PAGE.read_text(), re.MULTILINE))


def imported_at_runtime(tree: ast.AST) -> Iterator[ast.ImportFrom]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.ImportFrom):
            yield node
        yield from imported_at_runtime(node)


def private_imports(tree: ast.AST) -> set[str]:
    """Return what is imported from Dask's modules and not exported by `distributed` itself."""
    return {
        f"{node.module}.{alias.name}"
        for node in imported_at_runtime(tree)
        if node.module and node.module.startswith(("dask.", "distributed.", "dask_jobqueue."))
        for alias in node.names
        if alias.name not in distributed.__all__
    }


def private_attributes(tree: ast.AST) -> set[str]:
    """Return the underscored attributes of anything but ``self``, ``cls`` and the module ``os``.

    Those of named tuples are public: the underscore keeps them apart from the names of fields.
    """
    return {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and re.match(r"_[^_]", node.attr)
        and ast.unparse(node.value) not in ("self", "cls", "os")
        and node.attr not in ("_asdict", "_fields", "_replace")
    }


def own_names(tree: ast.AST) -> set[str]:
    """Return the underscored names that a module defines itself: functions, and attributes of ``self``."""
    return {
        node.name if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        or (isinstance(node, ast.Attribute) and ast.unparse(node.value) == "self")
    }


@needs_repository
def test_every_private_name_of_dask_is_listed() -> None:
    assert SOURCES
    trees = [ast.parse(path.read_text()) for path in SOURCES]
    last_parts = {name.rpartition(".")[2] for name in listed()}
    # A subclass may define a method of Dask's anew; `super()` is what uses it.
    ours = set().union(*map(own_names, trees)) - OVERRIDDEN
    assert set().union(*map(private_imports, trees)) - listed() == set()
    assert set().union(*map(private_attributes, trees)) - ours - last_parts == set()


@needs_repository
def test_every_listed_name_has_a_test_of_its_own() -> None:
    tested = [
        found[1]
        for path in TESTS
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (found := re.match(r"`([^`]+)`:", ast.get_docstring(node) or ""))
    ]
    assert sorted(tested) == sorted(listed())


def test_the_client_has_no_attribute_of_the_name_of_one_of_dask() -> None:
    """An attribute of ours would replace Dask's without a word."""

    def attributes(cls: type) -> set[str]:
        tree = ast.parse(inspect.getsource(cls))
        return own_names(tree) - {"__init__"}

    theirs = attributes(Client) | {*dir(Client)}
    used = {"status", "asynchronous", "sync", "subscribe_topic", "get_events", "cluster", "loop"}
    used |= {"_stream_handlers", "scheduler_comm", "futures", "id"}
    used |= {
        "scheduler_info",
        "log_event",
        "scheduler",
        "restart_workers",
        "rpc",
        "get_worker_logs",
        "restart",
    }
    grouped = {"wait_for_workers", "close"}
    tagged = {"submit", "map", "compute", "persist", "get", "get_executor", "run"}
    ours = set().union(
        *(
            attributes(cls)
            for cls in ScalableClient.__mro__
            if cls.__module__.startswith("scalable.")
        )
    )
    assert ours & theirs == tagged | grouped | OVERRIDDEN | used
