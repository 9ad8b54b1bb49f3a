"""Helpers for tests of validating and planning, which start nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from textwrap import dedent, indent

from scalable.manifest.parser import parse_manifest
from scalable.planning import build_plan
from scalable.providers.base import DeploymentProvider, DeploymentSpec, Renders
from scalable.providers.worker import server_command

__all__ = ["compare_rendered", "manifest_of", "modules_of_planning", "rendered", "spec_of"]

_MANIFEST = """\
version: 1
project: {{name: test}}
targets:
  here:
    provider: {provider}
{options}
components:
{components}
"""

_PLAN = """\
import sys
from scalable.manifest.parser import parse_manifest
from scalable.planning import build_plan
from scalable.providers.base import DeploymentSpec
from scalable.providers.registry import get_provider
manifest = parse_manifest(sys.stdin.read())
spec = DeploymentSpec.from_manifest(manifest, target_name=next(iter(manifest.targets)))
provider = get_provider(spec.provider_name)
assert provider.validate(spec).ok, provider.validate(spec).errors
build_plan(spec, provider).to_json()
print(*sys.modules)
"""


def manifest_of(provider: str, options: str = "", components: str = "gcam: {}") -> str:
    r"""Return a manifest with one target, ``here``.

    Parameters
    ----------
    provider : str
        The provider's name.
    options : str
        The target's options, as lines of YAML; the first is line 6 of the manifest.
    components : str
        The components, as lines of YAML.

    Examples
    --------
    >>> print(manifest_of("local", "n_workers: 2", "gcam: {cpus: 4}\nplots: {}"), end="")
    version: 1
    project: {name: test}
    targets:
      here:
        provider: local
        n_workers: 2
    components:
      gcam: {cpus: 4}
      plots: {}
    """
    return _MANIFEST.format(
        provider=provider, options=_block(options, "    "), components=_block(components, "  ")
    )


def spec_of(provider: str, options: str = "", components: str = "gcam: {}") -> DeploymentSpec:
    """Return the spec of that manifest, parsed as ``scalable.yaml`` with an empty environment.

    Examples
    --------
    >>> spec_of("local", "n_workers: 2").target.options["n_workers"]
    2
    """
    text = manifest_of(provider, options, components)
    manifest = parse_manifest(text, env={}, source="scalable.yaml")
    return DeploymentSpec.from_manifest(manifest, target_name="here")


def modules_of_planning(manifest: str) -> frozenset[str]:
    """Validate and plan in a new process, and return the modules that it imported.

    Parameters
    ----------
    manifest : str
        A valid manifest. The provider of its first target is looked up by name, as for users.
    """
    command = [sys.executable, "-c", _PLAN]
    done = subprocess.run(
        command, input=manifest, stdout=subprocess.PIPE, text=True, timeout=60, check=True
    )
    return frozenset(done.stdout.split())


def _block(lines: str, margin: str) -> str:
    return indent(dedent(lines).strip("\n"), margin)


def rendered(provider: DeploymentProvider, spec: DeploymentSpec) -> dict[str, str]:
    """Return what a provider renders of a target with its first counts of workers, by name."""
    assert isinstance(provider, Renders)
    plan = build_plan(spec, provider).scale_plan
    return {each.name: each.content for each in provider.render(spec, plan)}


def compare_rendered(found: Mapping[str, str], directory: Path) -> None:
    """Compare what a provider renders with the files of a directory.

    With ``SCALABLE_TESTS_WRITE=1`` it is written there, for a change that is meant. The program that starts Dask's
    servers is left out, as ``(entry)``.

    Parameters
    ----------
    found : mapping of str to str
        What is rendered, by name.
    directory : Path
        The files.

    Raises
    ------
    AssertionError
        They differ.
    """
    entry = json.dumps(server_command("", "worker")[-2])[1:-1]
    texts = {name: text.replace(entry, "(entry)") for name, text in found.items()}
    if os.environ.get("SCALABLE_TESTS_WRITE"):
        for name, text in texts.items():
            (directory / name).write_text(text, encoding="utf-8")
    expected = {path.name: path.read_text(encoding="utf-8") for path in directory.iterdir()}
    assert texts == expected
