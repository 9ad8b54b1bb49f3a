from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated, Any

import pytest
from pydantic import TypeAdapter, ValidationError

from scalable.manifest.checking import check_model
from scalable.manifest.issues import ValidationIssue
from scalable.providers.options import (
    EnvironmentVariables,
    ImageName,
    Limits,
    Matching,
    OneLine,
    TargetOptions,
    WorkerRange,
    common_options,
)
from scalable.testing.offline import spec_of


def read(options: str) -> tuple[TargetOptions | None, list[ValidationIssue]]:
    spec = spec_of("desk", options)
    at = ("targets", "here")
    return check_model(TargetOptions, spec.target.options, spec.manifest.place(at))


def test_defaults() -> None:
    options, issues = read("")
    assert issues == []
    assert options == TargetOptions()
    assert options.startup_timeout == 300
    assert options.limits.max_hourly_cost is None


def test_all_options() -> None:
    options, issues = read(
        """
        workers: {gcam: 2, plots: {minimum: 1, maximum: 8}}
        n_workers: 3
        adaptive: {maximum: 4, idle_timeout: 30m, target_duration: 00:02:00}
        max_workers: 9
        startup_timeout: 10m
        limits: {max_hourly_cost: 1.1}
        """
    )
    assert issues == []
    assert options == TargetOptions(
        workers={"gcam": 2, "plots": WorkerRange(minimum=1, maximum=8)},
        n_workers=3,
        adaptive=WorkerRange(maximum=4, idle_timeout=1800, target_duration=120),
        max_workers=9,
        startup_timeout=600,
        limits=Limits(max_hourly_cost=Decimal("1.1")),
    )


def test_workers_may_be_one_number() -> None:
    options, _ = read("workers: 4")
    assert options == TargetOptions(workers=4)


@pytest.mark.parametrize(
    ("options", "path", "message"),
    [
        ("workers: -1", "workers", "must be at least 0, not -1"),
        ("workers: 1000000000", "workers", "must be at most 100000, not 1000000000"),
        ("workers: {a: 1000000000}", "workers.a", "must be at most 100000, not 1000000000"),
        ("n_workers: 1000000000", "n_workers", "must be at most 100000, not 1000000000"),
        (
            "adaptive: {minimum: 1000000000, maximum: 1000000000}",
            "adaptive.minimum",
            "must be at most 100000, not 1000000000",
        ),
        ("workers: many", "workers", "must be a whole number, not 'many'"),
        ("workers: [1]", "workers", "must be a whole number, not a list"),
        ("workers: true", "workers", "must be a whole number, not true"),
        ("workers: {a: -1}", "workers.a", "must be at least 0, not -1"),
        ("workers: {a: b}", "workers.a", "must be a whole number, not 'b'"),
        (
            "workers: {a: {minimum: 2, maximum: 1}}",
            "workers.a",
            "minimum must not be above maximum",
        ),
        ("workers: {a: {minimum: 2}}", "workers.a.maximum", "this key is required"),
        ("workers: {a: {maximum: 2, max: 1}}", "workers.a.max", "unknown key"),
        ("n_workers: 1.5", "n_workers", "must be a whole number, not 1.5"),
        ("adaptive: 3", "adaptive", "must be a mapping, not 3"),
        ("adaptive: {maximum: 1, idle_timeout: -1}", "adaptive.idle_timeout", "must be a duration"),
        (
            "adaptive: {maximum: 1, idle_timeout: soon}",
            "adaptive.idle_timeout",
            "must be a duration",
        ),
        (
            "workers: {a: {maximum: 1, target_duration: 0}}",
            "workers.a.target_duration",
            "must be more than 0, not 0",
        ),
        ("max_workers: 0", "max_workers", "must be at least 1, not 0"),
        ("startup_timeout: 0", "startup_timeout", "must be more than 0, not 0"),
        ("startup_timeout: soon", "startup_timeout", "must be a duration"),
        ("limits: {max_hourly_cost: 0}", "limits.max_hourly_cost", "must be more than 0, not 0"),
        ("limits: {max_hourly_cost: low}", "limits.max_hourly_cost", "got 'low'"),
        ("limits: {max_daily_cost: 1}", "limits.max_daily_cost", "unknown key"),
        ("max_wrokers: 1", "max_wrokers", "did you mean 'max_workers'?"),
    ],
)
def test_invalid_values(options: str, path: str, message: str) -> None:
    made, [issue] = read(options)
    assert made is None
    assert issue.path == f"targets.here.{path}"
    assert message in issue.message
    assert issue.line == 6


@pytest.mark.parametrize("name", ["many", "a mapping", "a number", "minimum"])
def test_no_name_of_a_component_confuses_the_path_of_a_problem(name: str) -> None:
    _, [issue] = read(f"workers: {{{name}: x}}")
    assert issue.path in (f"targets.here.workers.{name}", f'targets.here.workers."{name}"')


def test_every_option_is_described() -> None:
    schema = TargetOptions.model_json_schema()
    assert set(schema["properties"]) == set(TargetOptions.model_fields)
    assert all(option["description"].endswith(".") for option in schema["properties"].values())
    assert schema["additionalProperties"] is False


def test_common_options_ignore_those_of_the_provider() -> None:
    options, issues = common_options(spec_of("desk", "colour: [red]\nn_workers: 2\nx-note: hi"))
    assert issues == []
    assert options == TargetOptions(n_workers=2)


def test_invalid_common_options() -> None:
    options, issues = common_options(spec_of("desk", "colour: [red]\nn_workers: two"))
    assert options is None
    assert [issue.path for issue in issues] == ["targets.here.n_workers"]


def accepts(kind: TypeAdapter[Any], value: object) -> bool:
    try:
        kind.validate_python(value)
    except ValidationError:
        return False
    return True


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (TypeAdapter(OneLine), ["a", " a b ", "é"], ["", "  ", "a\nb", "a\n", "\ta", "a\x00"]),
        (
            TypeAdapter(ImageName),
            ["dask", "ghcr.io/dask/dask:2026.8.0-py3.11", "host:5000/a@sha256:00", "1x"],
            ["", "a b", "-v", "a\n", "a;b"],
        ),
    ],
)
def test_patterns_of_text(kind: TypeAdapter[str], good: list[str], bad: list[str]) -> None:
    assert [value for value in good if not accepts(kind, value)] == []
    assert [value for value in bad if accepts(kind, value)] == []
    pattern = kind.json_schema()["pattern"]
    # An editor, which has only the pattern, comes to the same result.
    assert [value for value in good if not re.search(pattern, value)] == []
    assert [v for v in bad if re.search(pattern.removesuffix("$") + r"\Z", v)] == []


def test_names_of_environment_variables() -> None:
    kind = TypeAdapter(EnvironmentVariables)
    assert accepts(kind, {"OMP_NUM_THREADS": "4", "_x": ""})
    assert not accepts(kind, {"1X": "4"})
    assert not accepts(kind, {"A=B": "4"})


def test_text_that_does_not_match_is_described_and_not_quoted() -> None:
    kind = Annotated[str, Matching("vpc-[0-9a-f]{8,17}", "a VPC id such as vpc-0a1b2c3d")]
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(kind).validate_python("s3cret")
    [error] = caught.value.errors()
    assert str(error["ctx"]["error"]) == "must be a VPC id such as vpc-0a1b2c3d"
