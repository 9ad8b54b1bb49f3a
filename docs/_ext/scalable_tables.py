"""Parts of these pages that are generated from the code, so that they cannot drift from it.

``{model-fields} module.Model``
    A list of the fields of a pydantic model: name, accepted values, default, meaning. ``:omit:`` leaves some out.
``{provider-options} name``
    The same for the options that an installed provider adds to those of every target.
``{provider-abilities} name …``
    Which installed providers have each of the optional abilities.
``{enum-table} module.Class``
    The members of an enumeration with their docstrings.
``{annotated-types} module``
    The types of a module that are made by `typing.Annotated`, with their docstrings.
``{command-line} module.command``
    Each command of a click group, with its arguments and options.

In the reference, a pydantic model shows its fields as parameters instead of the annotations that make them.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any, ClassVar

import click
from docutils import nodes
from docutils.parsers.rst import directives
from pydantic import BaseModel
from sphinx.application import Sphinx
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.docutils import SphinxDirective

from scalable.providers.base import (
    EstimatesCost,
    Preflights,
    Reaps,
    RefreshesPrices,
    Renders,
    RunsInside,
)
from scalable.providers.common import BaseProvider
from scalable.providers.options import TargetOptions
from scalable.providers.registry import get_provider

Schema = Mapping[str, Any]


def _import(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", r"\|")


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(map(_cell, row))} |"


def shape(schema: Schema, definitions: Schema) -> str:
    """Return what a JSON Schema accepts, in words."""
    if "examples" in schema:
        return ", ".join(f"`{example}`" for example in schema["examples"])
    if "$ref" in schema:
        definition = definitions[schema["$ref"].rpartition("/")[2]]
        if fields := definition.get("properties"):
            return f"`{{{', '.join(fields)}}}`"
        return shape(definition, definitions)
    if branches := schema.get("anyOf", schema.get("oneOf")):
        texts = (shape(each, definitions) for each in branches if each.get("type") != "null")
        return " or ".join(dict.fromkeys(texts))
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    match schema.get("type"):
        case "object":
            values = [
                schema.get("additionalProperties"),
                *schema.get("patternProperties", {}).values(),
            ]
            inner = [shape(value, definitions) for value in values if isinstance(value, Mapping)]
            return f"mapping to {inner[0]}" if inner else "mapping"
        case "array" if schema.get("maxItems") == 0:
            return "`[]`"
        case "array":
            return f"list of {shape(schema.get('items', {}), definitions)}"
        case "integer" | "number":
            least = f" ≥ {schema['minimum']}" if "minimum" in schema else ""
            return f"{schema['type']}{least}"
        case "boolean":
            return "`true`, `false`"
        case "string":
            return "text"
        case "null":
            return "`null`"
    return "anything"


def fields_list(model: type[BaseModel], omit: Collection[str]) -> Iterator[str]:
    """Return a definition list of a model's fields: a table of four columns does not fit on a phone."""
    schema = model.model_json_schema()
    for name, field in schema["properties"].items():
        if name in omit:
            continue
        facts = [shape(field, schema.get("$defs", {}))]
        value = field.get("default")
        if name in schema.get("required", ()):
            facts.append("required")
        elif value not in (None, [], {}):
            facts.append(f"default `{json.dumps(value)}`")
        meaning = " ".join(field.get("description", "").split())
        yield from (f"`{name}`", f": {' · '.join(facts)}", "", f"  {meaning}", "")


ABILITIES = {
    "`scalable check`: check online whether a run would work": Preflights,
    "`scalable plan --render`: show the scripts and requests of a run": Renders,
    "`scalable ps`, `scalable reap`: find and remove what dead runs left behind": Reaps,
    "`scalable run --in-cluster`: run the workflow at the target, too": RunsInside,
    "prices in plans, limits on cost": EstimatesCost,
    "`scalable prices refresh`: ask for the present prices": RefreshesPrices,
}


def ability_rows(names: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Return each ability with the providers that have it."""
    providers = {name: get_provider(name) for name in names}
    for ability, protocol in ABILITIES.items():
        able = [name for name, provider in providers.items() if isinstance(provider, protocol)]
        links = (f"[{name}](/providers/{name}.md)" for name in able)
        yield ability, ", ".join(links) or "none in this version"


def enum_rows(path: str) -> Iterator[tuple[str, str]]:
    """Return each member's value and its docstring."""
    enum = _import(path)
    docs = ModuleAnalyzer.for_module(enum.__module__).find_attr_docs()
    for member in enum:
        yield f"`{member.value}`", " ".join(docs[enum.__name__, member.name])


def _is_annotated(obj: object) -> bool:
    return "Annotated[" in repr(obj)[:200]


def annotated_types(path: str) -> Iterator[str]:
    """Return a description of each annotated type that a module offers."""
    module = import_module(path)
    docs = ModuleAnalyzer.for_module(path).find_attr_docs()
    for name in module.__all__:
        if _is_annotated(getattr(module, name)):
            yield from (
                f"```{{py:data}} {name}",
                f":module: {path}",
                "",
                *docs["", name],
                "```",
                "",
            )


_EVERYWHERE = {"--help", "--debug"}


def command_lines(name: str, command: click.Command, level: str) -> Iterator[str]:
    """Return a heading, the help text and a table of options for a command and its subcommands."""
    context = click.Context(command, info_name=name)
    yield from (f"{level} {name}", "")
    for paragraph in inspect.cleandoc(command.help or "").split("\n\n"):
        # click's mark of text that keeps its lines.
        code = paragraph.startswith("\b\n")
        yield from ("```text", inspect.cleandoc(paragraph[2:]), "```") if code else (paragraph,)
        yield ""
    yield from ("```text", " ".join([name, *command.collect_usage_pieces(context)]), "```", "")
    records = [
        parameter.get_help_record(context)
        for parameter in command.get_params(context)
        if isinstance(parameter, click.Option) and not _EVERYWHERE & {*parameter.opts}
    ]
    if rows := [(f"`{option}`", text) for option, text in filter(None, records)]:
        yield from (*_table(("Option", "Meaning"), rows), "")
    if isinstance(command, click.Group):
        for below in command.list_commands(context):
            found = command.get_command(context, below)
            if found is not None and not found.hidden:
                yield from command_lines(f"{name} {below}", found, level + "#")


class _Generated(SphinxDirective):
    """A directive whose content is MyST text generated from its argument."""

    required_arguments = 1

    def lines(self, argument: str) -> Iterable[str]:
        raise NotImplementedError

    def run(self) -> list[nodes.Node]:
        text = "\n".join(self.lines(self.arguments[0]))
        return self.parse_text_to_nodes(text, allow_section_headings=True)


class ModelFields(_Generated):
    """The directive ``model-fields``."""

    option_spec: ClassVar = {"omit": directives.unchanged}

    def lines(self, argument: str) -> Iterable[str]:
        """Return the list."""
        return fields_list(_import(argument), self.options.get("omit", "").split())


class ProviderOptions(_Generated):
    """The directive ``provider-options``."""

    def lines(self, argument: str) -> Iterable[str]:
        """Return the list."""
        provider = get_provider(argument)
        if not isinstance(provider, BaseProvider):
            raise self.error(f"{argument} has no model of its options")
        model = provider.options_model
        yield from fields_list(model, TargetOptions.model_fields)
        yield ""
        yield "Options that every provider knows are in [the manifest reference](/manifest.md#targets)."


class ProviderAbilities(_Generated):
    """The directive ``provider-abilities``."""

    final_argument_whitespace = True

    def lines(self, argument: str) -> Iterable[str]:
        """Return the table."""
        return _table(("Ability", "Providers"), ability_rows(argument.split()))


class EnumTable(_Generated):
    """The directive ``enum-table``."""

    def lines(self, argument: str) -> Iterable[str]:
        """Return the table."""
        return _table(("Name", "Meaning"), enum_rows(argument))


class AnnotatedTypes(_Generated):
    """The directive ``annotated-types``."""

    def lines(self, argument: str) -> Iterable[str]:
        """Return the descriptions."""
        return annotated_types(argument)


class CommandLine(_Generated):
    """The directive ``command-line``."""

    def lines(self, argument: str) -> Iterable[str]:
        """Return the sections."""
        return command_lines("scalable", _import(argument), "##")


def _is_model(what: str, obj: object) -> bool:
    return what == "class" and isinstance(obj, type) and issubclass(obj, BaseModel)


def without_noise(
    app: Sphinx, what: str, name: str, obj: Any, skip: bool, options: Any
) -> bool | None:
    """Skip the fields of named tuples, and annotated types, which autodoc would spell out."""
    is_field = (getattr(obj, "__doc__", None) or "").startswith("Alias for field number")
    return True if is_field or _is_annotated(obj) else None


def without_sections(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
    """Make rubrics of the sections of a module's docstring, which would otherwise contain its members."""
    if what == "module":
        for n, line in enumerate(lines):
            if n and line and set(line) == {"-"} and len(line) == len(lines[n - 1]):
                lines[n - 1 : n + 1] = [f".. rubric:: {lines[n - 1]}", ""]


def without_annotations(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, signature: str, result: str
) -> tuple[str, str] | None:
    """Return an empty signature for a model."""
    return ("", "") if _is_model(what, obj) else None


def with_fields(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
    """Append a model's fields to its docstring."""
    if not _is_model(what, obj):
        return
    schema = obj.model_json_schema()
    if properties := schema.get("properties"):
        lines += ["", "Parameters", "----------"]
        for field, about in properties.items():
            lines += [field, f"    {about.get('description', '')}"]


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directives."""
    app.add_directive("model-fields", ModelFields)
    app.add_directive("provider-options", ProviderOptions)
    app.add_directive("provider-abilities", ProviderAbilities)
    app.add_directive("enum-table", EnumTable)
    app.add_directive("annotated-types", AnnotatedTypes)
    app.add_directive("command-line", CommandLine)
    app.connect("autodoc-skip-member", without_noise)
    app.connect("autodoc-process-signature", without_annotations)
    app.connect("autodoc-process-docstring", without_sections, priority=100)
    # Before numpydoc, which reads the section that this adds.
    app.connect("autodoc-process-docstring", with_fields, priority=100)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
