"""Parts of manifests against models, as providers use it for their options."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from scalable.manifest.checking import check_model
from scalable.manifest.parser import parse_manifest
from scalable.manifest.schema import FrozenModel, ManifestModel
from scalable.manifest.units import Duration, Memory


def _never_seven(value: int) -> int:
    if value == 7:
        raise ValueError("must not be 7")
    return value


def _echo(value: str) -> str:
    raise ValueError(f"cannot use {value!r}\nnor anything like it")


def _with_code(value: str) -> str:
    raise PydanticCustomError("E_NO_SUCH_ZONE", "there is no such zone")


class Shape(Enum):
    ROUND = "round"
    SQUARE = "square"


class Span(FrozenModel):
    minimum: int = Field(default=0, ge=0)
    maximum: int = Field(ge=0)

    @model_validator(mode="after")
    def _in_order(self) -> Span:
        if self.minimum > self.maximum:
            raise ValueError("must have a maximum above its minimum")
        return self


class Options(FrozenModel):
    queue: str | None = None
    walltime: Duration | None = None
    memory: Memory | None = None
    count: Annotated[int, AfterValidator(_never_seven)] = Field(default=1, ge=1, le=9)
    ratio: float = Field(default=1.0, gt=0)
    spot: bool = False
    shape: Shape = Shape.ROUND
    kind: Literal["fargate", "ec2"] = "ec2"
    hosts: tuple[str, ...] = Field(default=(), max_length=2)
    labels: Mapping[str, str] = Field(default_factory=dict)
    workers: int | dict[str, int | Span] = 1
    span: Span | None = None
    zone: Annotated[str | None, AfterValidator(lambda zone: zone and _with_code(zone))] = None
    echo: Annotated[str | None, AfterValidator(lambda text: text and _echo(text))] = None
    path: Path | None = None
    code: str | None = Field(default=None, pattern="^[A-Z]+$", min_length=2)
    renamed: str | None = Field(default=None, validation_alias="re-named")


ENV = {
    "TOKEN": "s3cret",
    "N": "5",
    "ACCOUNT": "0123",
    "VERSION": "1.10",
    "WORD": "hunter2",
    "EMPTY": "",
    "YES": "true",
    "SPAN": "9",
}


def manifest_of(options: str) -> ManifestModel:
    head = "version: 1\nproject: {name: x}\ntargets:\n  t:\n    provider: p\n"
    body = "".join(f"    {line}\n" for line in options.splitlines())
    return parse_manifest(head + body, env=ENV, source="m")


def check(options: str, model: type[BaseModel] = Options) -> tuple[Any, list[str]]:
    manifest = manifest_of(options)
    made, issues = check_model(model, manifest.targets["t"].options, manifest.place("targets.t"))
    assert (made is None) == bool(issues)
    return made, [str(issue).removeprefix("m:") for issue in issues]


def made(options: str) -> Options:
    model, issues = check(options)
    assert issues == []
    assert isinstance(model, Options)
    return model


def issues(options: str) -> list[str]:
    return check(options)[1]


def test_what_is_right_is_made() -> None:
    options = made(
        "queue: short\nwalltime: 02:00:00\nmemory: 8G\ncount: 2\nratio: 2\nspot: true\n"
        "shape: square\nkind: fargate\nhosts: [a, b]\nlabels: {a: b}\nworkers: {a: 1, b: {maximum: 3}}\n"
        "path: /tmp\nre-named: x"
    )
    assert options == Options(
        queue="short",
        walltime=7200,
        memory=8 * 10**9,
        count=2,
        ratio=2.0,
        spot=True,
        shape=Shape.SQUARE,
        kind="fargate",
        hosts=("a", "b"),
        labels={"a": "b"},
        workers={"a": 1, "b": Span(maximum=3)},
        path=Path("/tmp"),
    ).model_copy(update={"renamed": "x"})
    assert options.model_fields_set == {
        *("queue", "walltime", "memory", "count", "ratio", "spot", "shape", "kind", "hosts"),
        *("labels", "workers", "path", "renamed"),
    }


@pytest.mark.parametrize(
    ("options", "issue"),
    [
        ("count: two", "E_BAD_VALUE targets.t.count: must be a whole number, not 'two'"),
        (
            'count: "2"',
            "E_BAD_VALUE targets.t.count: must be a whole number, not '2'; write it without quotes",
        ),
        ("count: true", "E_BAD_VALUE targets.t.count: must be a whole number, not true"),
        ("count: 2.0", "E_BAD_VALUE targets.t.count: must be a whole number, not 2.0; write 2"),
        ("count:", "E_BAD_VALUE targets.t.count: must be a whole number, not null"),
        ("count: [1]", "E_BAD_VALUE targets.t.count: must be a whole number, not a list"),
        ("count: {}", "E_BAD_VALUE targets.t.count: must be a whole number, not a mapping"),
        ("count: 0", "E_BAD_VALUE targets.t.count: must be at least 1, not 0"),
        ("count: 10", "E_BAD_VALUE targets.t.count: must be at most 9, not 10"),
        ("count: 7", "E_BAD_VALUE targets.t.count: must not be 7 (got 7)"),
        ("ratio: 0", "E_BAD_VALUE targets.t.ratio: must be more than 0, not 0"),
        ("ratio: x", "E_BAD_VALUE targets.t.ratio: must be a number, not 'x'"),
        (
            "spot: yes",
            "E_BAD_VALUE targets.t.spot: must be true or false, not 'yes', which YAML 1.2 reads as text; write true",
        ),
        (
            "queue: true",
            "E_BAD_VALUE targets.t.queue: must be text, not true; write it in quotes",
        ),
        (
            "queue: 007",
            "E_BAD_VALUE targets.t.queue: must be text, not 7; write it in quotes",
        ),
        ("queue: [a]", "E_BAD_VALUE targets.t.queue: must be text, not a list"),
        (
            "shape: rond",
            "E_BAD_VALUE targets.t.shape: must be 'round' or 'square', not 'rond' (did you mean 'round'?)",
        ),
        (
            "kind: ec3",
            "E_BAD_VALUE targets.t.kind: must be 'fargate' or 'ec2', not 'ec3' (did you mean 'ec2'?)",
        ),
        ("hosts: a", "E_BAD_VALUE targets.t.hosts: must be a list, not 'a'"),
        (
            "hosts: [a, b, c]",
            "E_BAD_VALUE targets.t.hosts: must be a list or mapping of 2 at most, not a list",
        ),
        (
            "hosts: [a, true]",
            "E_BAD_VALUE targets.t.hosts[1]: must be text, not true; write it in quotes",
        ),
        ("labels: [a]", "E_BAD_VALUE targets.t.labels: must be a mapping, not a list"),
        (
            "labels: {a.b: [c]}",
            'E_BAD_VALUE targets.t.labels."a.b": must be text, not a list',
        ),
        (
            "walltime: soon",
            "E_BAD_VALUE targets.t.walltime: must be a duration: HH:MM:SS, D-HH:MM:SS, 90m, 2h, "
            "or a number of seconds (got 'soon')",
        ),
        (
            "workers: many",
            "E_BAD_VALUE targets.t.workers: must be a whole number or a mapping, not 'many'",
        ),
        (
            "workers: {a: many}",
            "E_BAD_VALUE targets.t.workers.a: must be a whole number or a mapping, not 'many'",
        ),
        ("workers: {a: {}}", "E_MISSING_KEY targets.t.workers.a.maximum: this key is required"),
        (
            "workers: {a: {maximum: 1, minimun: 0}}",
            "E_UNKNOWN_KEY targets.t.workers.a.minimun: unknown key (did you mean 'minimum'?)",
        ),
        (
            "span: {minimum: 3, maximum: 2}",
            "E_BAD_VALUE targets.t.span: must have a maximum above its minimum (got a mapping)",
        ),
        (
            "span: {maximum: x}",
            "E_BAD_VALUE targets.t.span.maximum: must be a whole number, not 'x'",
        ),
        ("zone: mars", "E_NO_SUCH_ZONE targets.t.zone: there is no such zone"),
        (
            "code: a1",
            "E_BAD_VALUE targets.t.code: must be text that matches ^[A-Z]+$, not 'a1'",
        ),
        ("code: A", "E_BAD_VALUE targets.t.code: must be text of 2 or more characters, not 'A'"),
        ('code: ""', "E_BAD_VALUE targets.t.code: must be text of 2 or more characters, not ''"),
        ("quue: a", "E_UNKNOWN_KEY targets.t.quue: unknown key (did you mean 'queue'?)"),
        ("renamed: a", "E_UNKNOWN_KEY targets.t.renamed: unknown key (did you mean 're-named'?)"),
        ("zzz: a", "E_UNKNOWN_KEY targets.t.zzz: unknown key"),
    ],
)
def test_a_problem_is_described_in_our_own_message(options: str, issue: str) -> None:
    (line,) = issues(options)
    position, _, said = line.partition(" ")
    assert said == issue
    assert position.startswith("6:")


def test_long_values_are_cut() -> None:
    (line,) = issues(f"count: {'x' * 500}")
    assert len(line) < 150


def test_every_problem_is_found_at_once() -> None:
    found = issues("count: 0\nspot: maybe\nhosts: [1.0, true]\nspan: {}\nquue: x")
    assert [line.split()[2] for line in found] == [
        "targets.t.count:",
        "targets.t.spot:",
        "targets.t.hosts[1]:",
        "targets.t.span.maximum:",
        "targets.t.quue:",
    ]


def test_a_missing_key_is_where_its_mapping_is() -> None:
    class Strict(FrozenModel):
        account: str

    assert check("walltime: 1", Strict)[1] == [
        "4:3 E_MISSING_KEY targets.t.account: this key is required",
        "6:5 E_UNKNOWN_KEY targets.t.walltime: unknown key",
    ]


def test_keys_with_x_are_free_at_every_depth() -> None:
    options = made("x-note: 1\nspan: {maximum: 1, x-note: [2]}\nworkers: {a: {maximum: 1, x-y: 2}}")
    assert options == Options(span=Span(maximum=1), workers={"a": Span(maximum=1)})


def test_a_model_that_allows_extra_keys_does() -> None:
    class Loose(BaseModel):
        model_config = ConfigDict(extra="allow")

    assert check("anything: 1", Loose)[0].anything == 1


def test_text_takes_numbers_that_read_back_as_written() -> None:
    options = made("queue: 12\nhosts: [1, 2.5]\nlabels: {a: -3}")
    assert (options.queue, options.hosts, options.labels) == ("12", ("1", "2.5"), {"a": "-3"})


@pytest.mark.parametrize("number", ["1.10", "0x10", "1e3", "+1", "00"])
def test_text_takes_no_number_that_would_change(number: str) -> None:
    (line,) = issues(f"queue: {number}")
    assert "must be text" in line
    assert "write it in quotes" in line


def test_variables_are_read_as_what_the_field_wants() -> None:
    options = made(
        "count: ${N}\nqueue: ${ACCOUNT}\nhosts: ['${VERSION}', '${YES}']\nspot: ${YES}\n"
        "labels: {version: 1, a: b, empty: e}\nspan: {maximum: '1${N}'}\nwalltime: ${N}m"
    )
    assert (options.count, options.queue, options.spot) == (5, "0123", True)
    assert options.hosts == ("1.10", "true")
    assert options.span == Span(maximum=15)
    assert options.walltime == 300


def test_quotes_that_yaml_needs_inside_brackets_do_not_make_a_number_text() -> None:
    options = made("count: '${N}'\nspot: '${YES}'\nratio: '${VERSION}'\nqueue: '${N}'")
    assert (options.count, options.spot, options.ratio, options.queue) == (5, True, 1.1, "5")


def test_text_takes_every_variable_as_it_is() -> None:
    options = made(
        "labels:\n  version: ${VERSION}\n  yes: ${YES}\n  empty: ${EMPTY}\nqueue: ${EMPTY}"
    )
    assert options.labels == {"version": "1.10", "yes": "true", "empty": ""}
    assert options.queue is None  # which may be null


@pytest.mark.parametrize(
    ("options", "issue"),
    [
        ("count: ${WORD}", "targets.t.count: must be a whole number, not '${WORD}'"),
        ('count: "${WORD}"', "must be a whole number, not '${WORD}'"),
        ('count: "1${N}"', "targets.t.count: must be at most 9, not '1${N}'"),
        ("count: 1${N}", "targets.t.count: must be at most 9, not '1${N}'"),
        ("kind: ${WORD}", "not '${WORD}'"),
        ("hosts: ['${WORD}', ['${WORD}']]", "targets.t.hosts[1]: must be text, not a list"),
        ("echo: x${WORD}y", "cannot use 'x${WORD}y' nor anything like it (got 'x${WORD}y')"),
        ("walltime: ${WORD}", "(got '${WORD}')"),
        ("code: ${WORD}", "not '${WORD}'"),
        ("workers: {a: '${WORD}'}", "not '${WORD}'"),
        ("span:\n  minimum: ${SPAN}\n  maximum: 2", "must have a maximum above its minimum"),
    ],
)
def test_values_of_the_environment_are_never_shown(options: str, issue: str) -> None:
    (line,) = issues(options)
    assert issue in line
    assert ENV["WORD"] not in line


def test_options_with_values_of_the_environment_show_what_was_written() -> None:
    options = made(
        "queue: ${TOKEN}\ncount: ${N}\nspan: {maximum: '${SPAN}'}\nlabels: {a: '${TOKEN}'}"
    )
    assert options.queue == "s3cret"
    assert repr(options) == (
        "Options(queue='${TOKEN}', count='${N}', labels={'a': '${TOKEN}'}, span={'maximum': '${SPAN}'})"
    )
    assert repr(options.span) == "Span(maximum='${SPAN}')"
    assert str(options).count("s3cret") == 0


def test_a_variable_that_is_not_set_is_an_error_of_the_target_that_uses_it() -> None:
    assert issues("queue: ${MISSING}\ncount: ${MISSING}0") == [
        "6:5 E_UNSET_VARIABLE targets.t.queue: MISSING is not set in the environment; "
        "set it, or write ${MISSING:-default}",
        "7:5 E_UNSET_VARIABLE targets.t.count: MISSING is not set in the environment; "
        "set it, or write ${MISSING:-default}",
    ]


def test_given_fields_are_not_the_documents_to_give() -> None:
    class Named(FrozenModel):
        name: str = Field(pattern="^[a-z]+$")
        size: int = 1

    place = manifest_of("name: x").place("targets.t")
    named, found = check_model(Named, {"size": 2}, place, given={"name": "abc"})
    assert (named, found) == (Named(name="abc", size=2), [])
    _, found = check_model(Named, {"name": "x"}, place, given={"name": "abc"})
    assert [str(issue) for issue in found] == ["m:6:5 E_UNKNOWN_KEY targets.t.name: unknown key"]
    _, found = check_model(Named, {}, place, given={"name": "ABC"})
    assert [issue.path for issue in found] == ["targets.t"]


def test_what_did_not_come_from_a_manifest_is_checked_too() -> None:
    manifest = parse_manifest({"version": 1, "project": {"name": "x"}})
    place = manifest.place("targets.t")
    _, found = check_model(Options, {"count": "x", "hosts": [1]}, place)
    assert [str(issue) for issue in found] == [
        "E_BAD_VALUE targets.t.count: must be a whole number",
        "E_BAD_VALUE targets.t.hosts[0]: must be text",
    ]
