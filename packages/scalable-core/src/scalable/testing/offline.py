"""Helpers for tests of validating and planning, which start nothing."""

from __future__ import annotations

import subprocess
import sys
from textwrap import dedent, indent

from scalable.manifest.parser import parse_manifest
from scalable.providers.base import DeploymentSpec

__all__ = ["manifest_of", "modules_of_planning", "spec_of"]

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
