"""For tests of what a provider does before anything starts: validating and planning."""

from __future__ import annotations

import subprocess
import sys
from textwrap import dedent, indent

from scalable.manifest.parser import parse_manifest
from scalable.providers.base import DeploymentSpec

__all__ = ["modules_of_planning", "spec_of"]

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
from scalable.planning import build_plan
from scalable.providers.registry import get_provider
from scalable.testing.offline import spec_of
spec = spec_of(*sys.argv[1:])
provider = get_provider(spec.provider_name)
assert provider.validate(spec).ok, provider.validate(spec).errors
build_plan(spec, provider).to_json()
print(*sys.modules)
"""


def spec_of(provider: str, options: str = "", components: str = "gcam: {}") -> DeploymentSpec:
    r"""Write a manifest with one target, ``here``, and read it without any environment.

    Parameters
    ----------
    provider : str
        What manifests call the provider.
    options : str
        The target's options, as lines of YAML; the first is line 6 of ``scalable.yaml``.
    components : str
        The components, as lines of YAML.

    Examples
    --------
    >>> spec = spec_of("local", "n_workers: 2", "gcam: {cpus: 4}\nplots: {}")
    >>> spec.target.options["n_workers"], spec.components["gcam"].cpus
    (2, 4)
    """
    text = _MANIFEST.format(
        provider=provider, options=_block(options, "    "), components=_block(components, "  ")
    )
    manifest = parse_manifest(text, env={}, source="scalable.yaml")
    return DeploymentSpec.from_manifest(manifest, target_name="here")


def modules_of_planning(
    provider: str, options: str = "", components: str = "gcam: {}"
) -> frozenset[str]:
    """Validate and plan in a fresh process, and return the modules that it has imported by then.

    The provider is found by its name, as users find it; otherwise the same as `spec_of`.
    """
    command = [sys.executable, "-c", _PLAN, provider, options, components]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=60, check=True)
    return frozenset(done.stdout.split())


def _block(lines: str, margin: str) -> str:
    return indent(dedent(lines).strip("\n"), margin)
