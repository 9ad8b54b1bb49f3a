"""Which module may import which.

1. The core has layers, `LAYERS`: a module imports from the layers below its own.
2. The core imports no provider.
3. A provider imports the core and itself, and no other provider.
4. Some parts never import certain packages, `FORBIDDEN`.
5. Importing a module imports little, `IMPORT_COSTS`: of the engine, a provider imports only `LIGHT_ENGINE`.

The rules are checked against the sources; nothing is imported. Which imports count:

* An import at the top of a module runs when the module is imported. It counts for every rule.
* An import inside a function runs when the function is called. It is a dependency like any other, so it counts for
  rules 1 to 4, but not for rule 5.
* An import under ``if TYPE_CHECKING:`` never runs and does not count: annotations may name any layer.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

PACKAGES = Path(__file__).parents[1] / "packages"

LAYERS = (
    # The command, whose `plan --simulate` uses the simulation.
    ("scalable.cli",),
    # The conformance suite with which providers are tested, and the simulation.
    ("scalable.testing",),
    # One run of a manifest's target, and below it its record.
    ("scalable.session",),
    # What a session shows of itself.
    ("scalable.progress",),
    ("scalable.runs",),
    # Results that last: their names, and the store.
    ("scalable.results",),
    # The base class of providers, and the upload of the workflow's modules.
    ("scalable.providers.common", "scalable.modules"),
    # How many workers each group gets, and what they may cost.
    ("scalable.planning",),
    # Prices of a version, and newer ones in a file of the user.
    ("scalable.providers.prices",),
    # Helpers that providers share: checks and options, command lines of containers and workers, names and log files,
    # questions and blocking calls, keys.
    ("scalable.providers.checks",),
    (
        "scalable.providers.options",
        "scalable.providers.labels",
        "scalable.providers.queries",
        "scalable.providers.rendering",
        "scalable.providers.containers",
        "scalable.providers.logs",
        "scalable.providers.blocking",
        "scalable.providers.servers",
        "scalable.providers.scheduler",
        "scalable.providers.tls",
        "scalable.providers.worker",
        "scalable.providers.forking",
    ),
    # The program of one worker, of which the one that forks several makes use.
    ("scalable.providers.entry",),
    # Above the registry, because validation looks up which providers are installed.
    ("scalable.manifest",),
    # The registry and the provider contract. Both name the manifest in annotations only, so that listing providers
    # imports neither pydantic nor yaml.
    ("scalable.providers.registry",),
    ("scalable.providers.base",),
    # The client that takes tags, for any cluster of the engine.
    ("scalable.client",),
    # The engine. It knows neither manifests nor providers, only a backend (`scalable.cluster.port`).
    ("scalable.cluster", "scalable.costing"),
    # What runs on the scheduler and the workers, what tasks use there, and the errors that all other layers raise.
    ("scalable.cluster.plugin", "scalable.mpi"),
    ("scalable.paths",),
    ("scalable.errors",),
)
"""The core, from top to bottom. The parts of one layer do not import each other."""

FORBIDDEN = {
    # Pickled by value, because the image of the scheduler or a worker may have none of our packages.
    "scalable.cluster.plugin": {"scalable"},
    "scalable.modules.plugins": {"scalable"},
    "scalable.results.plugins": {"scalable"},
    "scalable.results.store": {"scalable"},
    # Passed to a Python as text, for the same reason.
    "scalable.providers.entry": {"scalable"},
    # Programs that read manifests need neither the engine nor the command.
    "scalable.manifest": {"click", "dask", "distributed"},
    # The contract between a provider and the engine is plain Python.
    "scalable.cluster.port": {"dask", "distributed", "pydantic", "scalable"},
}
"""Packages that a part never imports, except for itself, not even inside a function."""

MANIFEST = {"pydantic", "pydantic_core", "yaml"}
IMPORT_COSTS: dict[str, set[str]] = {
    "scalable.errors": set(),
    "scalable.costing": set(),
    "scalable.paths": set(),
    "scalable.runs": set(),
    "scalable.progress": set(),
    "scalable.modules": set(),
    "scalable.results": set(),
    "scalable.cluster": set(),
    "scalable.cluster.adaptive": set(),
    "scalable.cluster.budget": set(),
    "scalable.cluster.host": set(),
    "scalable.cluster.ledger": set(),
    "scalable.cluster.log_directory": set(),
    "scalable.cluster.port": set(),
    "scalable.providers.base": set(),
    "scalable.providers.registry": set(),
    "scalable.cli": {"click"},
    "scalable.manifest": MANIFEST,
    "scalable.planning": MANIFEST,
    "scalable.session": MANIFEST,
    "scalable.providers.checks": MANIFEST,
    "scalable.providers.common": MANIFEST,
    "scalable.providers.containers": set(),
    "scalable.providers.labels": set(),
    "scalable.providers.logs": set(),
    "scalable.providers.options": MANIFEST,
    "scalable.providers.prices": MANIFEST,
    "scalable.providers.queries": set(),
    "scalable.providers.rendering": set(),
    "scalable.providers.worker": set(),
    "scalable.providers.servers": set(),
    "scalable.providers.local": MANIFEST,
    "scalable.providers.slurm": MANIFEST,
    "scalable.providers.kubernetes": MANIFEST,
    "scalable.providers.cloud.aws": MANIFEST,
    "scalable.providers.cloud.gcp": MANIFEST,
}
"""Packages outside the standard library that importing a module may import. Dask, rich and SDKs are imported late."""

LIGHT_ENGINE = {
    "scalable.cluster",
    "scalable.cluster.adaptive",
    "scalable.cluster.budget",
    "scalable.cluster.host",
    "scalable.cluster.ledger",
    "scalable.cluster.log_directory",
    "scalable.cluster.port",
}
"""The modules of the engine that importing a provider may import: the others import Dask."""


@dataclass(frozen=True)
class Import:
    """One import in the sources."""

    importer: str
    imported: str
    line: int
    at_top: bool

    def __str__(self) -> str:
        return f"{self.importer}, line {self.line}, imports {self.imported}"


@cache
def modules() -> dict[str, Path]:
    """Return the file of each module, by the module's name."""
    found = {}
    for source in PACKAGES.glob("*/src"):
        for path in source.rglob("*.py"):
            *packages, name = path.relative_to(source).with_suffix("").parts
            found[".".join([*packages, name] if name != "__init__" else packages)] = path
    return found


def distribution(module: str) -> str:
    """Return the name of the distribution that a module belongs to."""
    return modules()[module].relative_to(PACKAGES).parts[0]


@cache
def imports(importer: str) -> tuple[Import, ...]:
    """Return the imports of a module that Python would run."""

    def visit(node: ast.AST, at_top: bool) -> Iterator[Import]:
        match node:
            case ast.Import(names=names):
                for alias in names:
                    yield Import(importer, alias.name, node.lineno, at_top)
            case ast.ImportFrom(module=str(package), level=0, names=names):
                for alias in names:
                    name = f"{package}.{alias.name}"
                    imported = name if name in modules() else package
                    yield Import(importer, imported, node.lineno, at_top)
            case ast.ImportFrom():
                raise AssertionError(f"{importer}, line {node.lineno}: imports are absolute")
            case ast.If(test=ast.Name(id="TYPE_CHECKING"), orelse=alternative):
                for statement in alternative:
                    yield from visit(statement, at_top)
            case _:
                inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
                for child in ast.iter_child_nodes(node):
                    yield from visit(child, at_top and not inside)

    tree = ast.parse(modules()[importer].read_text(encoding="utf-8"))
    return tuple(visit(tree, at_top=True))


def is_in(module: str, part: str) -> bool:
    return module == part or module.startswith(f"{part}.")


def imports_of(part: str) -> list[Import]:
    return [each for module in modules() if is_in(module, part) for each in imports(module)]


def layer(module: str) -> tuple[int, str]:
    """Return the number of a module's layer, from the bottom, and its part of that layer."""
    found = [
        (number, part)
        for number, parts in enumerate(reversed(LAYERS))
        for part in parts
        if is_in(module, part)
    ]
    assert found, f"{module} has no place in LAYERS"
    return max(found, key=lambda place: len(place[1]))


def loaded(module: str) -> set[str]:
    """Return what is imported when a module is: modules of ours, and the names of other packages."""
    pending, seen = [module], set[str]()
    while pending:
        name = pending.pop()
        if name in seen:
            continue
        seen.add(name)
        if name in modules():
            pending += [each.imported for each in imports(name) if each.at_top]
            # A package is imported before its modules.
            pending += [name.rpartition(".")[0]] if "." in name else []
    return {name if name in modules() else name.partition(".")[0] for name in seen} - {"scalable"}


CORE = {module for module in modules() if distribution(module) == "scalable-core"}
PROVIDERS = sorted(
    module
    for module, path in modules().items()
    if is_in(module, "scalable.providers") and path.name == "__init__.py" and module not in CORE
)


def test_the_sources_are_found() -> None:
    assert {distribution(module) for module in modules()} == {
        path.parent.name for path in PACKAGES.glob("*/src")
    }
    assert any(each.at_top for each in imports("scalable.cli.running"))
    assert any(not each.at_top for each in imports("scalable.cli.running"))


def test_core_imports_from_the_layers_below() -> None:
    wrong = [
        each
        for module in CORE
        for each in imports(module)
        if each.imported in CORE
        and not is_in(each.imported, layer(module)[1])
        and layer(each.imported)[0] >= layer(module)[0]
    ]
    assert [str(each) for each in wrong] == []


def test_core_imports_no_provider() -> None:
    wrong = [
        each
        for module in CORE
        for each in imports(module)
        if is_in(each.imported, "scalable") and each.imported not in CORE
    ]
    assert [str(each) for each in wrong] == []


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_provider_imports_core_and_no_other_provider(provider: str) -> None:
    wrong = [
        each
        for each in imports_of(provider)
        if is_in(each.imported, "scalable")
        and each.imported not in CORE
        and distribution(each.imported) != distribution(provider)
    ]
    assert [str(each) for each in wrong] == []


@pytest.mark.parametrize("part", FORBIDDEN)
def test_a_part_imports_nothing_that_is_forbidden_to_it(part: str) -> None:
    found = imports_of(part)
    assert found, f"{part} does not exist, or imports nothing"
    wrong = [
        each
        for each in found
        if each.imported.partition(".")[0] in FORBIDDEN[part] and not is_in(each.imported, part)
    ]
    assert [str(each) for each in wrong] == []


@pytest.mark.parametrize("module", IMPORT_COSTS)
def test_importing_a_module_imports_little(module: str) -> None:
    others = {name for name in loaded(module) if name not in modules()}
    assert others - sys.stdlib_module_names <= IMPORT_COSTS[module]


def test_each_provider_has_its_import_costs_listed() -> None:
    assert {*PROVIDERS} <= {*IMPORT_COSTS}


@pytest.mark.parametrize("provider", PROVIDERS)
def test_importing_a_provider_imports_no_engine(provider: str) -> None:
    engine = {name for name in loaded(provider) if is_in(name, "scalable.cluster")}
    assert engine <= LIGHT_ENGINE
