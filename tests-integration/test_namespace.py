"""Seven distributions share one namespace without affecting each other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

PROVIDERS = {
    "local": "scalable.providers.local",
    "slurm": "scalable.providers.slurm",
    "kubernetes": "scalable.providers.kubernetes",
    "aws": "scalable.providers.cloud.aws",
    "gcp": "scalable.providers.cloud.gcp",
}
DISTRIBUTIONS = ("scalable-core", *(f"scalable-{name}" for name in PROVIDERS), "scalable")

WORKING = """
from scalable.providers.registry import describe_providers
print(*(info.name for info in describe_providers(load=True) if not info.problem))
"""

MakeSite = Callable[..., Path]
Uninstall = Callable[[Path, str], None]
Python = Callable[..., str]


def test_no_directory_of_the_namespace_is_a_regular_package(root: Path) -> None:
    shared = ("scalable", "scalable/providers", "scalable/providers/cloud")
    sources = list(root.glob("packages/*/src"))
    assert sources
    assert not [
        init for src in sources for part in shared if (init := src / part / "__init__.py").exists()
    ]


def test_every_provider_works_alongside_the_others(make_site: MakeSite, python: Python) -> None:
    site = make_site("all", *DISTRIBUTIONS)
    assert python(WORKING, site).split() == sorted(PROVIDERS)


@pytest.mark.parametrize("name", PROVIDERS)
def test_a_provider_needs_no_other(name: str, make_site: MakeSite, python: Python) -> None:
    site = make_site("one", "scalable-core", f"scalable-{name}")
    assert python(WORKING, site) == name


def test_the_namespace_may_span_several_directories(make_site: MakeSite, python: Python) -> None:
    core = make_site("core", "scalable-core", "scalable-local")
    clouds = make_site("clouds", "scalable-aws", "scalable-slurm")
    more = make_site("more", "scalable-gcp", "scalable-kubernetes")
    assert python(WORKING, core, clouds, more).split() == sorted(PROVIDERS)
    assert python(WORKING, more, clouds, core).split() == sorted(PROVIDERS)


@pytest.mark.parametrize("name", PROVIDERS)
def test_removing_one_provider_keeps_the_others(
    name: str, make_site: MakeSite, uninstall: Uninstall, python: Python
) -> None:
    site = make_site("all", *DISTRIBUTIONS)
    python(WORKING, site)  # leaves bytecode behind, as any use does
    uninstall(site, f"scalable-{name}")
    assert python(WORKING, site).split() == sorted({*PROVIDERS} - {name})
    assert f"pip install scalable-{name}" in python(
        f"""
from scalable.providers.registry import get_provider
try:
    get_provider({name!r})
except KeyError as error:
    print(error)
""",
        site,
    )


@pytest.mark.parametrize(("name", "module"), PROVIDERS.items())
def test_importing_a_provider_imports_no_engine_and_no_sdk(
    name: str, module: str, make_site: MakeSite, python: Python
) -> None:
    site = make_site("all", *DISTRIBUTIONS)
    heavy = "dask distributed dask_jobqueue dask_kubernetes kr8s kubernetes dask_cloudprovider boto3 botocore google"
    loaded = python(
        f"""
import sys
from scalable.providers.registry import get_provider
get_provider({name!r})
assert {module!r} in sys.modules
print(*({{*{heavy!r}.split()}} & {{*sys.modules}}))
""",
        site,
    )
    assert loaded == ""
