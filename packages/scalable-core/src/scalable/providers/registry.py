"""Registry of providers: which ones are available, and how to create one.

A provider is found by its name in two places: among those that this process registered, and among the entry points
that installed distributions declare in the group ``scalable.providers``. A registered provider takes precedence.
Listing imports nothing; a plugin is imported when it is requested, and one that cannot be used does not affect others.

Examples
--------
>>> from scalable.providers.registry import clear_registry, iter_provider_names, register_provider
>>> class Desk:
...     name = "desk"
>>> register_provider(" Desk", Desk)
>>> list(iter_provider_names(include_entrypoints=False))
['desk']
>>> clear_registry()
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib.metadata import entry_points
from itertools import chain
from types import MappingProxyType

from scalable.errors import (
    ProviderConflictError,
    ProviderNameError,
    QuarantinedProviderError,
    UnknownProviderError,
)
from scalable.providers.base import API_VERSION, DeploymentProvider

__all__ = [
    "ENTRY_POINT_GROUP",
    "ProviderFactory",
    "ProviderInfo",
    "ProviderStatus",
    "clear_registry",
    "describe_providers",
    "get_provider",
    "install_hint",
    "iter_provider_names",
    "provider_distributions",
    "register_provider",
    "register_providers",
]

ENTRY_POINT_GROUP = "scalable.providers"
"""Entry point group in which a distribution declares its providers."""

ProviderFactory = Callable[[], DeploymentProvider]
"""A provider's class, or a function that returns a provider."""

_INSTALL_HINTS = MappingProxyType(
    {
        name: f"pip install scalable-{name}"
        for name in ("local", "slurm", "kubernetes", "aws", "gcp")
    }
)
# A provider that states no API version was written when only one existed.
_FIRST_API_VERSION = 1

_lock = threading.Lock()
_registered: dict[str, ProviderFactory] = {}


class ProviderStatus(StrEnum):
    """Status of a provider."""

    FOUND = "found"
    """It is declared; whether it works was not checked."""
    USABLE = "usable"
    """It was imported and created."""
    QUARANTINED = "quarantined"
    """It cannot be imported or created, or was written for another provider API."""
    CONFLICT = "conflict"
    """Another distribution claims the same name, so neither is used."""


@dataclass(frozen=True)
class ProviderInfo:
    """One claim to a provider's name.

    Parameters
    ----------
    name : str
        What manifests call it.
    status : ProviderStatus
        Its status.
    distribution, version : str
        The distribution that provides it. A registered provider comes from ``this process``, which has no version.
    module : str
        Its location: ``scalable.providers.slurm:SlurmProvider``.
    problem : str
        Why it cannot be used, and what to do; empty where no problem is known.
    """

    name: str
    status: ProviderStatus
    distribution: str
    version: str
    module: str
    problem: str = ""


def register_provider(name: str, factory: ProviderFactory) -> None:
    """Register a provider in this process. It takes precedence over an installed one of the same name.

    Parameters
    ----------
    name : str
        What manifests call it; case and outer white space do not matter.
    factory : callable
        The provider's class, or a function without arguments that returns a provider.

    Raises
    ------
    ProviderNameError
        A `ValueError`: the name is empty, or was registered before.
    TypeError
        `factory` is not callable.
    """
    register_providers([(name, factory)])


def register_providers(
    items: Mapping[str, ProviderFactory] | Iterable[tuple[str, ProviderFactory]],
) -> None:
    """Register several providers, or none of them if one is rejected.

    Raises
    ------
    ProviderNameError, TypeError
        As `register_provider`.
    """
    new: dict[str, ProviderFactory] = {}
    with _lock:
        for name, factory in items.items() if isinstance(items, Mapping) else items:
            key = _normalise(name)
            if key in _registered or key in new:
                raise ProviderNameError(
                    f"provider {key!r} is registered already; choose another name or call clear_registry()"
                )
            if not callable(factory):
                raise TypeError(
                    f"the factory of provider {key!r} is not callable; "
                    "pass the provider's class or a function that returns a provider"
                )
            new[key] = factory
        _registered.update(new)


def get_provider(name: str) -> DeploymentProvider:
    """Return a new provider of that name.

    Parameters
    ----------
    name : str
        Case and outer white space do not matter.

    Raises
    ------
    ProviderNameError
        A `ValueError`: the name is empty.
    UnknownProviderError
        A `KeyError`: it is neither registered nor installed.
    ProviderConflictError
        A `RuntimeError`: two distributions claim the name.
    QuarantinedProviderError
        An `ImportError`: it cannot be imported or created, or was written for another provider API.
    """
    key = _normalise(name)
    match _candidates(key):
        case []:
            raise UnknownProviderError(key, iter_provider_names(), install_hint(key))
        case [candidate]:
            return candidate.create()
        case candidates:
            raise ProviderConflictError(key, (candidate.origin for candidate in candidates))


def install_hint(name: str) -> str | None:
    """Return the command that installs a provider of this project; None for any other.

    Examples
    --------
    >>> install_hint("aws")
    'pip install scalable-aws'
    """
    return _INSTALL_HINTS.get(name.strip().lower())


def iter_provider_names(include_entrypoints: bool = True) -> Iterator[str]:
    """Return the names of all providers, in alphabetical order, without importing any.

    Parameters
    ----------
    include_entrypoints : bool
        Whether to include those of installed distributions, beside those that this process registered.
    """
    installed = _installed() if include_entrypoints else {}
    return iter(sorted({*_registered, *installed}))


def describe_providers(*, load: bool = False) -> list[ProviderInfo]:
    """Return the origin and the status of each provider.

    Parameters
    ----------
    load : bool
        Whether to import and create each one, to find out whether it works. Otherwise nothing is imported.

    Returns
    -------
    list of ProviderInfo
        By name; a name that several distributions claim appears once for each of them.
    """
    infos = []
    for name in iter_provider_names():
        candidates = _candidates(name)
        for candidate in candidates:
            status, problem = _status(candidate, candidates, load)
            infos.append(
                ProviderInfo(
                    name,
                    status,
                    candidate.distribution,
                    candidate.version,
                    candidate.module,
                    problem,
                )
            )
    return infos


def clear_registry() -> None:
    """Forget the registered providers, and read again which ones are installed."""
    with _lock:
        _registered.clear()
    _installed.cache_clear()


@dataclass(frozen=True)
class _Candidate:
    """One declaration of a provider of this name, by a distribution or by this process."""

    name: str
    distribution: str
    version: str
    module: str
    find: Callable[[], ProviderFactory]
    remedy: str

    @property
    def origin(self) -> str:
        return f"{self.distribution} {self.version}".rstrip()

    def create(self) -> DeploymentProvider:
        try:
            factory = self.find()
            # The class is checked before it is called: another API may require another constructor.
            self._check_api_version(factory)
            provider = factory()
        except QuarantinedProviderError:
            raise
        except (Exception, SystemExit) as error:
            cause = f"{type(error).__name__}: {' '.join(str(error).split())}".removesuffix(": ")
            raise self._quarantine(cause) from error
        self._check_api_version(provider)
        if not isinstance(provider, DeploymentProvider):
            raise self._quarantine(
                f"{type(provider).__name__} lacks a part of scalable.providers.base.DeploymentProvider"
            )
        return provider

    def _check_api_version(self, made: object) -> None:
        version = getattr(made, "api_version", _FIRST_API_VERSION)
        if version != API_VERSION:
            raise self._quarantine(
                f"it was written for provider API {version} and scalable-core has {API_VERSION}",
                f"install versions of {self.distribution} and scalable-core that are compatible",
            )

    def _quarantine(self, cause: str, remedy: str | None = None) -> QuarantinedProviderError:
        return QuarantinedProviderError(
            self.name, self.distribution, cause, remedy or self.remedy, version=self.version
        )


def _normalise(name: str) -> str:
    key = name.strip().lower()
    if not key:
        raise ProviderNameError("a provider's name is empty; give it one, such as 'local'")
    return key


def _candidates(name: str) -> Sequence[_Candidate]:
    factory = _registered.get(name)
    if factory is None:
        return _installed().get(name, ())
    qualname = getattr(factory, "__qualname__", type(factory).__qualname__)
    return [
        _Candidate(
            name=name,
            distribution="this process",
            version="",
            module=f"{factory.__module__}:{qualname}",
            find=lambda: factory,
            remedy="correct the factory that was passed to register_provider()",
        )
    ]


def provider_distributions(provider: str | None = None) -> dict[str, str]:
    """Return the versions of the distributions that have a provider, by their names; nothing is imported.

    Parameters
    ----------
    provider : str, optional
        The name of a provider, to get that of its distribution alone.
    """
    installed = _installed()
    names = installed if provider is None else [provider]
    found = chain.from_iterable(installed.get(name, ()) for name in names)
    return {each.distribution.lower(): each.version for each in found}


@cache
def _installed() -> Mapping[str, Sequence[_Candidate]]:
    # Cached, because it reads the metadata of every installed distribution: tens of milliseconds.
    found: defaultdict[str, list[_Candidate]] = defaultdict(list)
    for entry_point in entry_points(group=ENTRY_POINT_GROUP):
        name, distribution = entry_point.name.strip().lower(), entry_point.dist
        # An entry point without a name can never be requested, and must not hide the others.
        if not name or distribution is None:
            continue
        found[name].append(
            _Candidate(
                name=name,
                distribution=distribution.name,
                version=distribution.version,
                module=entry_point.value,
                find=entry_point.load,
                remedy=f"run 'pip install --force-reinstall {distribution.name}' "
                f"or 'pip uninstall {distribution.name}'",
            )
        )
    return MappingProxyType(dict(found))


def _status(
    candidate: _Candidate, candidates: Sequence[_Candidate], load: bool
) -> tuple[ProviderStatus, str]:
    if len(candidates) > 1:
        conflict = ProviderConflictError(candidate.name, (each.origin for each in candidates))
        return ProviderStatus.CONFLICT, str(conflict)
    if not load:
        return ProviderStatus.FOUND, ""
    try:
        candidate.create()
    except QuarantinedProviderError as error:
        return ProviderStatus.QUARANTINED, str(error)
    return ProviderStatus.USABLE, ""
