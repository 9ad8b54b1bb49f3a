"""``scalable schema``: the JSON Schema of manifests, for editors."""

from __future__ import annotations

import click

from scalable.cli.options import debug_option, json_option
from scalable.cli.output import print_json, print_problem

__all__ = ["schema"]


@click.command()
@json_option
@debug_option
def schema(as_json: bool) -> None:
    """Print the JSON Schema of manifests.

    It has the core's part and the options of every installed provider. Editors use it to complete and check a
    manifest:

    \b
        scalable schema > .scalable.schema.json
        # yaml-language-server: $schema=.scalable.schema.json   (first line of scalable.yaml)
    """  # noqa: D301 - click wants the control character itself
    from scalable.errors import ProviderError
    from scalable.manifest.jsonschema import compose_schema
    from scalable.providers.base import DescribesOptions
    from scalable.providers.registry import get_provider, iter_provider_names

    schemas = {}
    for name in iter_provider_names():
        try:
            provider = get_provider(name)
        except ProviderError as error:
            print_problem(f"not in the schema: {error}", severity="warning")
            continue
        if isinstance(provider, DescribesOptions):
            schemas[name] = provider.options_schema()
    print_json(compose_schema(schemas))
