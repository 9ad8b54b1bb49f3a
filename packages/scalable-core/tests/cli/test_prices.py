"""``scalable prices refresh``: which targets it passes to the provider, and what it shows."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from scalable.cli import main
from scalable.errors import ProviderError
from scalable.providers.base import ClusterHandle, DeploymentSpec, ListedPrice, RefreshedPrices
from scalable.providers.common import BaseProvider
from scalable.providers.options import TargetOptions
from scalable.providers.registry import clear_registry, register_provider

DAY = date(2026, 11, 22)


class CloudOptions(TargetOptions):
    region: str | None = None


class CloudProvider(BaseProvider[CloudOptions]):
    """A provider that has prices of its regions."""

    name = "cloud"
    options_model = CloudOptions

    def __init__(self) -> None:
        self.asked: list[str | None] = []
        self.error: Exception | None = None

    def refresh_prices(self, specs: Sequence[DeploymentSpec]) -> RefreshedPrices:
        self.asked = [self.parse_options(spec).region for spec in specs]
        if self.error:
            raise self.error
        prices = [
            ListedPrice("here", "small", Decimal("0.0850"), source="its list", as_of=DAY),
            ListedPrice("here", "GB", Decimal("0.1") / 730, source="its list", as_of=DAY),
            ListedPrice("here", "large"),
        ]
        return RefreshedPrices(Path("/somewhere/prices.json"), prices)

    def _build(self, spec: DeploymentSpec, options: CloudOptions) -> ClusterHandle:
        raise AssertionError("nothing here builds")


@pytest.fixture
def cloud(project: Path) -> Iterator[CloudProvider]:
    clear_registry()
    made = CloudProvider()
    register_provider("cloud", lambda: made)
    yield made
    clear_registry()


Cli = Callable[..., Result]


@pytest.fixture
def cli(project: Path) -> Cli:
    def cli(*arguments: str) -> Result:
        command = ["prices", "refresh", *arguments]
        return CliRunner().invoke(main, command, prog_name="scalable")

    return cli


def write(path: Path, *targets: str) -> None:
    lines = "\n".join(f"  {target}" for target in targets)
    path.write_text(
        f"version: 1\nproject: {{name: test}}\ntargets:\n{lines}\ncomponents: {{gcam: {{}}}}\n"
    )


def test_prices_are_shown_with_source_and_day(cloud: CloudProvider, cli: Cli) -> None:
    result = cli("--provider", "cloud")
    assert result.exit_code == 0
    assert [line.split() for line in result.stdout.splitlines()[1:]] == [
        ["here", "small", "0.085", "USD", "its", "list", "2026-11-22"],
        ["here", "GB", "0.000136986", "USD", "its", "list", "2026-11-22"],
        ["here", "large", "unknown", "-", "-"],
    ]
    assert result.stderr == "scalable: saved 2 prices in /somewhere/prices.json\n"


def test_json_has_a_stable_shape(cloud: CloudProvider, cli: Cli) -> None:
    document = json.loads(cli("--provider", "cloud", "--json").stdout)
    assert document["path"] == "/somewhere/prices.json"
    small, _, large = document["prices"]
    assert small == {
        "place": "here",
        "unit": "small",
        "price": "0.0850",
        "currency": "USD",
        "source": "its list",
        "as_of": "2026-11-22",
    }
    assert (large["price"], large["source"], large["as_of"]) == (None, "", None)


def test_the_targets_of_the_provider_say_where(
    cloud: CloudProvider, cli: Cli, project: Path
) -> None:
    targets = ("a: {provider: Cloud, region: r1}", "b: {provider: cloud, region: r2}")
    write(project / "scalable.yaml", *targets, "c: {provider: demo, region: r3}")
    assert cli("--provider", "cloud").exit_code == 0
    assert cloud.asked == ["r1", "r2"]


def test_another_manifest_can_be_named(cloud: CloudProvider, cli: Cli, project: Path) -> None:
    write(project / "other.yaml", "a: {provider: cloud, region: r9}")
    assert cli("other.yaml", "--provider", "cloud").exit_code == 0
    assert cloud.asked == ["r9"]
    assert cli("missing.yaml", "--provider", "cloud").exit_code == 2


@pytest.mark.parametrize("manifest", [None, "demo: {provider: demo}"])
def test_without_a_target_of_the_provider_its_own_configuration_counts(
    cloud: CloudProvider, cli: Cli, project: Path, manifest: str | None
) -> None:
    path = project / "scalable.yaml"
    path.unlink()
    if manifest:
        write(path, manifest)
    assert cli("--provider", "cloud").exit_code == 0
    assert cloud.asked == [None]


def test_regions_on_the_command_line_take_precedence(
    cloud: CloudProvider, cli: Cli, project: Path
) -> None:
    write(project / "scalable.yaml", "a: {provider: cloud, region: r1}")
    assert cli("--provider", "cloud", "--region", "r5", "--region", "r6").exit_code == 0
    assert cloud.asked == ["r5", "r6"]


def test_a_target_that_cannot_be_read_is_noted(
    cloud: CloudProvider, cli: Cli, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NOWHERE_SET", raising=False)
    broken = "b: {provider: cloud, region: '${NOWHERE_SET}'}"
    write(project / "scalable.yaml", "a: {provider: cloud, region: r1}", broken)
    result = cli("--provider", "cloud")
    assert result.exit_code == 0
    assert cloud.asked == ["r1"]
    assert "note: target 'b' is left out: " in result.stderr
    assert "NOWHERE_SET" in result.stderr


def test_a_provider_without_prices_is_a_wrong_command_line(demo: None, cli: Cli) -> None:
    result = cli("--provider", "demo")
    assert result.exit_code == 2
    assert "provider 'demo' has no prices that can be refreshed" in result.stderr


def test_a_provider_must_be_named(cloud: CloudProvider, cli: Cli) -> None:
    result = cli()
    assert result.exit_code == 2
    assert "Missing option '--provider'" in result.stderr


def test_an_unknown_provider_is_an_error(cloud: CloudProvider, cli: Cli) -> None:
    result = cli("--provider", "clout")
    assert result.exit_code == 2
    assert "did you mean 'cloud'?" in result.stderr


def test_what_the_provider_cannot_learn_is_one_line(cloud: CloudProvider, cli: Cli) -> None:
    cloud.error = ProviderError("the list is closed; come back later")
    result = cli("--provider", "cloud")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr == "error: the list is closed; come back later\n"
    document = json.loads(cli("--provider", "cloud", "--json").stdout)
    assert document["error"]["type"] == "ProviderError"


def test_an_option_that_is_not_valid_is_an_error(
    cloud: CloudProvider, cli: Cli, project: Path
) -> None:
    write(project / "scalable.yaml", "a: {provider: cloud, region: [r1]}")
    result = cli("--provider", "cloud")
    assert result.exit_code == 2
    assert "targets.a.region" in result.stderr
