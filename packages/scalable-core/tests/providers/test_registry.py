"""The registry, against distributions that are really on ``sys.path``."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from scalable.errors import (
    ProviderConflictError,
    ProviderNameError,
    QuarantinedProviderError,
    UnknownProviderError,
)
from scalable.providers.base import ClusterHandle, DeploymentSpec
from scalable.providers.common import BaseProvider
from scalable.providers.options import TargetOptions
from scalable.providers.registry import (
    ProviderStatus,
    clear_registry,
    describe_providers,
    get_provider,
    iter_provider_names,
    provider_distributions,
    register_provider,
    register_providers,
)

if TYPE_CHECKING:
    from conftest import Install

PROVIDER = """
class Provider:
    name = "plugin"
    {api}
    def validate(self, spec): ...
    def build_cluster(self, spec): ...
    def scale(self, cluster, plan): ...
    def close(self, cluster): ...
"""

InstallPlugin = Callable[..., None]


class Desk(BaseProvider[TargetOptions]):
    name = "desk"
    options_model = TargetOptions

    def _build(self, spec: DeploymentSpec, options: TargetOptions) -> ClusterHandle:
        raise NotImplementedError


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    clear_registry()
    yield
    clear_registry()


@pytest.fixture
def install_plugin(site: Path, install: Install, monkeypatch: pytest.MonkeyPatch) -> InstallPlugin:
    """Lay a distribution with a module of a provider on ``sys.path``."""
    site.mkdir()
    monkeypatch.syspath_prepend(site)

    def install_plugin(
        name: str = "widget",
        *,
        distribution: str = "acme-widget",
        source: str = PROVIDER.format(api="api_version = 1"),
    ) -> None:
        module = distribution.replace("-", "_")
        install(name, f"{module}:Provider", distribution=distribution)
        (site / f"{module}.py").write_text(source)
        monkeypatch.delitem(sys.modules, module, raising=False)
        clear_registry()

    return install_plugin


def status_of(name: str, *, load: bool = True) -> list[ProviderStatus]:
    return [info.status for info in describe_providers(load=load) if info.name == name]


def test_a_registered_provider_is_created_anew_each_time() -> None:
    register_provider("desk", Desk)
    first, second = get_provider("desk"), get_provider("desk")
    assert isinstance(first, Desk)
    assert first is not second


@pytest.mark.parametrize("spelling", ["Desk", "  desk\n", "DESK"])
def test_case_and_white_space_of_a_name_do_not_matter(spelling: str) -> None:
    register_provider(" dEsk ", Desk)
    assert isinstance(get_provider(spelling), Desk)
    assert list(iter_provider_names(include_entrypoints=False)) == ["desk"]


@pytest.mark.parametrize("name", ["", "  ", "\t\n"])
def test_an_empty_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="empty"):
        register_provider(name, Desk)
    with pytest.raises(ProviderNameError, match="empty"):
        get_provider(name)


def test_a_name_is_registered_once() -> None:
    register_provider("desk", Desk)
    with pytest.raises(ValueError, match="'desk' is registered already"):
        register_provider(" DESK", Desk)


def test_a_factory_must_be_callable() -> None:
    with pytest.raises(TypeError, match="pass the provider's class"):
        register_provider("desk", Desk())  # type: ignore[arg-type]  # the mistake under test


@pytest.mark.parametrize("as_mapping", [True, False])
def test_several_are_registered_at_once(as_mapping: bool) -> None:
    items = {"b": Desk, "a": Desk}
    register_providers(items if as_mapping else items.items())
    assert list(iter_provider_names(include_entrypoints=False)) == ["a", "b"]


def test_several_are_registered_all_or_none() -> None:
    register_provider("taken", Desk)
    with pytest.raises(ValueError, match="'taken'"):
        register_providers([("free", Desk), ("Taken", Desk)])
    with pytest.raises(ValueError, match="'twice'"):
        register_providers([("twice", Desk), ("TWICE", Desk)])
    assert list(iter_provider_names(include_entrypoints=False)) == ["taken"]


def test_an_installed_provider_is_found(install_plugin: InstallPlugin) -> None:
    install_plugin("Widget")
    assert get_provider("widget").name == "plugin"
    assert "widget" in list(iter_provider_names())
    assert "widget" not in list(iter_provider_names(include_entrypoints=False))


def test_a_registered_provider_wins_over_an_installed_one(install_plugin: InstallPlugin) -> None:
    install_plugin("widget")
    register_provider("widget", Desk)
    assert isinstance(get_provider("widget"), Desk)
    [info] = [info for info in describe_providers() if info.name == "widget"]
    assert (info.distribution, info.version) == ("this process", "")
    assert info.module.endswith(":Desk")


def test_a_registered_provider_resolves_a_conflict(install_plugin: InstallPlugin) -> None:
    install_plugin("widget", distribution="acme-widget")
    install_plugin("widget", distribution="other-widget")
    register_provider("widget", Desk)
    assert isinstance(get_provider("widget"), Desk)


def test_clearing_forgets_what_was_registered() -> None:
    register_provider("desk", Desk)
    clear_registry()
    with pytest.raises(KeyError):
        get_provider("desk")


def test_two_distributions_that_claim_one_name_are_both_named(
    install_plugin: InstallPlugin,
) -> None:
    install_plugin("widget", distribution="acme-widget")
    install_plugin("WIDGET", distribution="other-widget")
    with pytest.raises(ProviderConflictError) as caught:
        get_provider("widget")
    assert set(caught.value.distributions) == {"acme-widget 1.0", "other-widget 1.0"}
    assert "uninstall" in str(caught.value)
    assert status_of("widget", load=False) == [ProviderStatus.CONFLICT] * 2


@pytest.mark.parametrize(
    ("source", "cause"),
    [
        ("import no_such_sdk", "ModuleNotFoundError: No module named 'no_such_sdk'"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("import sys; sys.exit('licence\\nexpired')", "SystemExit: licence expired"),
        ("class Provider(:", "SyntaxError"),
        ("raise ValueError", "ValueError;"),
        ("", "has no attribute 'Provider'"),
        ("class Provider:\n    def __init__(self): raise OSError('no home')", "OSError: no home"),
        ("class Provider:\n    name = 'x'", "Provider lacks a part of"),
        ("Provider = 3", "TypeError: 'int' object is not callable"),
        (PROVIDER.format(api="api_version = 2"), "provider API 2 and scalable-core has 1"),
        (PROVIDER.format(api="api_version = 'x'"), "provider API x"),
    ],
)
def test_a_plugin_that_cannot_be_used_is_quarantined_alone(
    install_plugin: InstallPlugin, source: str, cause: str
) -> None:
    install_plugin("broken", distribution="acme-broken", source=source)
    install_plugin("widget")

    assert status_of("broken", load=False) == [ProviderStatus.FOUND]
    with pytest.raises(QuarantinedProviderError) as caught:
        get_provider("broken")
    error = caught.value
    assert (error.provider, error.distribution, error.version) == ("broken", "acme-broken", "1.0")
    assert cause in str(error)
    assert "acme-broken" in error.remedy
    assert "\n" not in str(error)

    assert status_of("broken") == [ProviderStatus.QUARANTINED]
    assert status_of("widget") == [ProviderStatus.USABLE]
    assert get_provider("widget").name == "plugin"


def test_the_cause_of_a_quarantine_is_kept_for_its_author(install_plugin: InstallPlugin) -> None:
    install_plugin("broken", source="1 / 0")
    with pytest.raises(ImportError) as caught:
        get_provider("broken")
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_a_keyboard_interrupt_during_an_import_is_not_a_quarantine(
    install_plugin: InstallPlugin,
) -> None:
    install_plugin("broken", source="raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        get_provider("broken")


def test_another_api_is_refused_before_the_constructor_runs(install_plugin: InstallPlugin) -> None:
    source = "class Provider:\n    api_version = 2\n    def __init__(self): raise RuntimeError"
    install_plugin("broken", source=source)
    with pytest.raises(QuarantinedProviderError, match="provider API 2"):
        get_provider("broken")


def test_a_function_may_make_the_provider_and_its_api_is_checked_too() -> None:
    class Tomorrow(Desk):
        api_version = 2

    register_providers({"now": lambda: Desk(), "tomorrow": lambda: Tomorrow()})
    assert isinstance(get_provider("now"), Desk)
    with pytest.raises(QuarantinedProviderError, match="this process"):
        get_provider("tomorrow")


def test_a_provider_that_states_no_api_was_written_for_the_first(
    install_plugin: InstallPlugin,
) -> None:
    install_plugin("widget", source=PROVIDER.format(api=""))
    assert get_provider("widget").name == "plugin"


def test_a_nameless_entry_point_hides_no_other(install_plugin: InstallPlugin) -> None:
    install_plugin("", distribution="acme-nameless")
    install_plugin("widget")
    assert get_provider("widget").name == "plugin"


def test_an_unknown_name_lists_similar_and_installed_names(install_plugin: InstallPlugin) -> None:
    install_plugin("widget")
    with pytest.raises(UnknownProviderError) as caught:
        get_provider("Wigdet")
    assert "did you mean 'widget'?" in str(caught.value)
    assert "widget" in caught.value.installed
    assert isinstance(caught.value, KeyError)


@pytest.mark.parametrize("name", ["local", "slurm", "kubernetes", "aws", "gcp"])
def test_a_known_provider_that_is_not_installed_has_an_install_hint(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [])  # where distributions are looked for
    with pytest.raises(UnknownProviderError) as caught:
        get_provider(name)
    assert str(caught.value) == (
        f"provider '{name}' is not installed: pip install scalable-{name}; installed: none"
    )


def test_what_is_described(install_plugin: InstallPlugin) -> None:
    install_plugin("widget", distribution="acme-widget")
    [info] = [info for info in describe_providers() if info.name == "widget"]
    assert (info.distribution, info.version) == ("acme-widget", "1.0")
    assert info.module == "acme_widget:Provider"
    assert (info.status, info.problem) == (ProviderStatus.FOUND, "")


def test_the_versions_of_distributions_are_those_that_are_installed(
    install_plugin: InstallPlugin,
) -> None:
    install_plugin("widget", distribution="acme-Widget")
    register_provider("desk", Desk)
    assert provider_distributions("widget") == {"acme-widget": "1.0"}
    assert provider_distributions().items() >= {("acme-widget", "1.0")}
    assert provider_distributions("desk") == {}


def test_listing_imports_no_plugin(install_plugin: InstallPlugin) -> None:
    install_plugin("widget", source="raise SystemExit('imported')")
    list(iter_provider_names())
    describe_providers()
    provider_distributions()
    assert "acme_widget" not in sys.modules


def test_the_registry_imports_neither_dask_nor_pydantic() -> None:
    code = (
        "import sys; from scalable.providers.registry import iter_provider_names, describe_providers\n"
        "list(iter_provider_names()); describe_providers()\n"
        "heavy = {'dask', 'distributed', 'pydantic', 'yaml', 'rich'} & set(sys.modules)\n"
        "plugins = [m for m in sys.modules if m.startswith('scalable.providers.') and "
        "m.split('.')[2] not in ('base', 'registry')]\n"
        "sys.exit(f'imported: {heavy} {plugins}' if heavy or plugins else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
