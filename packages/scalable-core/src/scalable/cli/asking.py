"""Which targets ``scalable ps`` and ``scalable reap`` ask for the resources of runs, and what these answer.

By default: all targets of the manifest that there is, and the targets of runs whose record does not say that everything
was removed. Without a manifest, each installed provider is asked as well, at a target without options.

`targets_of` finds the targets of one provider, for ``scalable prices``.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from scalable.errors import (
    ManifestError,
    ProviderError,
    ProviderNotSetUpError,
    ScalableError,
    UnknownProviderError,
    UnknownTargetError,
    ValidationFailedError,
)

if TYPE_CHECKING:
    from scalable.manifest.issues import ValidationIssue
    from scalable.manifest.schema import ManifestModel
    from scalable.providers.base import DeploymentSpec, Owned, Reaps

__all__ = [
    "Answer",
    "Answers",
    "Scope",
    "Trouble",
    "ask",
    "describe_trouble",
    "spec_without_manifest",
    "targets_of",
]

DEADLINE = 60.0
"""Seconds in which a provider must have listed its resources."""


@dataclass(frozen=True)
class Scope:
    """What the command line says about where to look.

    Parameters
    ----------
    manifest, target, overlay, provider : str or None
        The options of the same names.
    """

    manifest: str | None = None
    target: str | None = None
    overlay: str | None = None
    provider: str | None = None

    def includes(self, provider: str) -> bool:
        """Return whether a provider is to be asked."""
        return self.provider is None or _normal(self.provider) == _normal(provider)


@dataclass(frozen=True)
class Trouble:
    """Why a target cannot be asked, or has not answered; one line.

    Parameters
    ----------
    message : str
        The line.
    severity : {"error", "note"}
        A note, where this machine lacks what it takes and nobody asked for just this target.
    """

    message: str
    severity: Literal["error", "note"] = "error"


@dataclass(frozen=True)
class _Candidate:
    """A target that may be asked: its description for messages, its name, and its spec, or why there is none.

    `hint` says what to do if it cannot be asked.
    """

    label: str
    target: str | None
    provider: str | None
    spec: DeploymentSpec | Exception
    hint: str = ""


@dataclass(frozen=True)
class Answer:
    """The resources of runs at one target.

    Parameters
    ----------
    label : str
        Description of the target, for messages.
    target : str or None
        Its name; None for the one without options that stands for a provider where there is no manifest.
    provider : Reaps
        Its provider.
    spec : DeploymentSpec
        The target.
    hint : str
        What to do if it cannot be asked.
    owned : sequence of Owned
        What it has, except what another target has already answered with.
    """

    label: str
    target: str | None
    provider: Reaps
    spec: DeploymentSpec
    hint: str = ""
    owned: Sequence[Owned] = ()


@dataclass
class Answers:
    """All answers, and why there are not more."""

    found: list[Answer] = field(default_factory=list)
    troubles: list[Trouble] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether every target has answered that this machine could ask."""
        return all(trouble.severity == "note" for trouble in self.troubles)


def ask(scope: Scope) -> Answers:
    """Return what every target in `scope` has, and what went wrong; all are asked at the same time.

    Raises
    ------
    ManifestError
        The manifest that the command line names cannot be used.
    UnknownTargetError
        It has no such target.
    ProviderError
        The provider that the command line names cannot be used.
    """
    answers = Answers()
    askable: list[Answer] = []
    candidates = _candidates(scope, answers.troubles)
    for candidate in candidates:
        if found := _find_provider(candidate, scope, answers.troubles):
            known = [(_normal(a.spec.provider_name), a.spec.target.options) for a in askable]
            if (_normal(found.spec.provider_name), found.spec.target.options) not in known:
                askable.append(found)
    seen: set[tuple[str, ...]] = set()
    for asked, listed in zip(askable, asyncio.run(_list_all(askable)), strict=True):
        if isinstance(listed, BaseException):
            answers.troubles.append(_list_trouble(asked, listed, scope))
            continue
        provider = _normal(asked.spec.provider_name)
        new = {(provider, each.place, each.kind, each.name): each for each in listed}
        owned = [each for key, each in new.items() if key not in seen]
        seen |= new.keys()
        answers.found.append(replace(asked, owned=owned))
    if not (askable or answers.troubles):
        message = "there is nothing to ask: no target of a manifest or of a run has a provider that lists resources"
        answers.troubles.append(Trouble(message, "note"))
    return answers


def targets_of(provider: str, manifest: str | None) -> tuple[list[DeploymentSpec], list[Trouble]]:
    """Return the targets of a provider in the manifest, else one without options; and which could not be read.

    Parameters
    ----------
    provider : str
        The provider.
    manifest : str or None
        The manifest; None for the one that there is.

    Raises
    ------
    ManifestError
        The manifest cannot be read at all.
    """
    scope = Scope(manifest, provider=provider)
    path = _manifest_path(scope)
    specs: list[DeploymentSpec] = []
    troubles: list[Trouble] = []
    for candidate in _of_manifest(path, scope) if path else ():
        if isinstance(candidate.spec, Exception):
            message = f"{candidate.label} is left out: {_why_unusable(candidate.spec)}"
            troubles.append(Trouble(message, "note"))
        elif scope.includes(candidate.spec.provider_name):
            specs.append(candidate.spec)
    return specs or [spec_without_manifest(provider)], troubles


def describe_trouble(error: BaseException, spec: DeploymentSpec) -> str:
    """Return an exception of a provider, of whatever library, as one line without values from the environment."""
    if isinstance(error, ValidationFailedError):
        text = _first_issue(error.report.errors)
    elif isinstance(error, ScalableError):
        text = str(error)
    else:
        text = f"{type(error).__name__}: {error}".removesuffix(": ")
    return spec.manifest.redact(" ".join(text.split()))


# -- Which targets there are


def _candidates(scope: Scope, troubles: list[Trouble]) -> list[_Candidate]:
    """Return the targets to ask, each with its spec or the reason why it has none."""
    named = scope.manifest is not None or scope.target is not None
    path = _manifest_path(scope)
    candidates: list[_Candidate] = []
    if path is not None:
        try:
            candidates += _of_manifest(path, scope)
        except ManifestError as error:
            if named:
                raise
            troubles.append(Trouble(f"manifest {path}: {_first_issue(error.issues)}"))
    if not named:
        candidates += _of_records(troubles)
    candidates = [c for c in candidates if c.provider is None or scope.includes(c.provider)]
    if not named:
        covered = {_normal(c.provider) for c in candidates if c.provider is not None}
        candidates += [
            _without_options(name)
            for name in _other_providers(scope, path is not None, troubles)
            if _normal(name) not in covered
        ]
    return candidates


def _manifest_path(scope: Scope) -> str | None:
    from scalable.session.session import DEFAULT_MANIFEST

    named = scope.manifest or os.environ.get("SCALABLE_MANIFEST")
    there_is = named or scope.target is not None or Path(DEFAULT_MANIFEST).exists()
    return (named or DEFAULT_MANIFEST) if there_is else None


def _of_manifest(path: str, scope: Scope) -> Iterator[_Candidate]:
    from scalable.manifest.parser import load_targets

    targets = load_targets(path, overlay_name=scope.overlay)
    if scope.target is not None and scope.target not in targets:
        raise UnknownTargetError(scope.target, targets)
    for name, manifest in targets.items():
        if scope.target in (None, name):
            spec = _spec_of(manifest, name)
            provider = None if isinstance(spec, Exception) else spec.provider_name
            of = f" of provider {provider!r}" if provider else ""
            yield _Candidate(f"target {name!r}{of}", name, provider, spec)


def _spec_of(manifest: ManifestModel | ManifestError, target: str) -> DeploymentSpec | Exception:
    from scalable.providers.base import DeploymentSpec

    if isinstance(manifest, ManifestError):
        return manifest
    return DeploymentSpec.from_manifest(manifest, target_name=target)


def _of_records(troubles: list[Trouble]) -> Iterator[_Candidate]:
    from scalable.runs import find_records, read_open_record, recorded_spec, records_directory

    try:
        directories = find_records()
    except OSError as error:
        troubles.append(Trouble(f"{records_directory()}: {error.strerror}"))
        return
    for directory in directories:
        hint = f"if nothing can be left of this run, remove {directory}"
        try:
            record = read_open_record(directory)
            if record is None:
                continue
            name, provider = str(record.get("target")), str(record.get("provider"))
            spec: DeploymentSpec | Exception = recorded_spec(record)
        except ManifestError as error:
            spec = error
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else str(error)
            message = f"the record of run {directory.name} cannot be read: {why}; {hint}"
            troubles.append(Trouble(message))
            continue
        label = f"target {name!r} of provider {provider!r} (run {directory.name})"
        yield _Candidate(label, name, provider, spec, hint)


def _other_providers(scope: Scope, has_manifest: bool, troubles: list[Trouble]) -> Iterator[str]:
    """Yield the providers to ask even if no target names them."""
    from scalable.providers.base import Reaps
    from scalable.providers.registry import ProviderStatus, describe_providers, get_provider

    if scope.provider is not None:
        yield scope.provider
    if scope.provider is not None or has_manifest:
        return
    for info in describe_providers(load=True):
        if info.status is not ProviderStatus.USABLE:
            troubles.append(Trouble(info.problem))
        elif isinstance(get_provider(info.name), Reaps):
            yield info.name


def _without_options(provider: str) -> _Candidate:
    name = _normal(provider)
    return _Candidate(f"provider {name!r}", None, name, spec_without_manifest(name))


def spec_without_manifest(provider: str, **options: str) -> DeploymentSpec:
    """Return a target of a provider that has these options alone."""
    from scalable.manifest.parser import parse_manifest
    from scalable.providers.base import DeploymentSpec

    name = _normal(provider)
    target = {"provider": name, **options}
    manifest = parse_manifest(
        {"version": 1, "project": {"name": name}, "targets": {"none": target}}, target_name="none"
    )
    return DeploymentSpec.from_manifest(manifest, target_name="none")


# -- Whether they can be asked


def _find_provider(candidate: _Candidate, scope: Scope, troubles: list[Trouble]) -> Answer | None:
    """Return a target with its provider, ready to be asked, or record why it cannot be."""
    from scalable.providers.base import Reaps
    from scalable.providers.common import BaseProvider
    from scalable.providers.registry import get_provider

    spec = candidate.spec
    if isinstance(spec, Exception):
        issues = spec.issues if isinstance(spec, ManifestError) else ()
        unset = bool(issues) and all(issue.code == "E_UNSET_VARIABLE" for issue in issues)
        message = f"{candidate.label} was not asked: {_why_unusable(spec)}"
        troubles.append(_trouble(message, scope, candidate.hint, is_note=unset))
        return None
    try:
        provider = get_provider(spec.provider_name)
    except ProviderError as error:
        if scope.provider is not None:
            raise
        missing = isinstance(error, UnknownProviderError)
        message = f"{candidate.label} was not asked: {error}"
        troubles.append(_trouble(message, scope, candidate.hint, is_note=missing))
        return None
    if not isinstance(provider, Reaps):
        if _is_named(scope):
            message = f"provider {provider.name!r} has no resources that could be listed"
            raise click.UsageError(message)
        return None
    if isinstance(provider, BaseProvider):
        try:
            provider.parse_options(spec)
        except ValidationFailedError as error:
            why = describe_trouble(error, spec)
            if candidate.target is None:
                message = (
                    f"{candidate.label} was not asked: it needs a target of a manifest ({why})"
                )
            else:
                message = f"{candidate.label} was not asked: {why}"
            is_note = candidate.target is None
            troubles.append(_trouble(message, scope, candidate.hint, is_note=is_note))
            return None
    return Answer(candidate.label, candidate.target, provider, spec, candidate.hint)


def _trouble(message: str, scope: Scope, hint: str, *, is_note: bool) -> Trouble:
    if hint:
        message += f"; {hint}"
    return Trouble(message, "note" if is_note and not _is_named(scope) else "error")


def _is_named(scope: Scope) -> bool:
    """Return whether the command line names a single target or provider, whose silence would be taken for an answer."""
    return scope.target is not None or scope.provider is not None


# -- Their answers


async def _list_all(targets: Iterable[Answer]) -> list[list[Owned] | BaseException]:
    from scalable.providers.blocking import BlockingCalls

    calls = BlockingCalls("scalable", deadline=DEADLINE)

    async def list_owned(target: Answer) -> list[Owned] | BaseException:
        try:
            return await calls.run(_list_one, target)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - reported for this target
            return error

    return list(await asyncio.gather(*map(list_owned, targets)))


def _list_one(target: Answer) -> list[Owned]:
    from scalable.providers.base import Owned

    owned = list(target.provider.list_owned(target.spec))
    if other := {type(each).__name__ for each in owned if not isinstance(each, Owned)}:
        raise TypeError(f"list_owned returned {', '.join(sorted(other))} and not Owned")
    return owned


def _list_trouble(asked: Answer, error: BaseException, scope: Scope) -> Trouble:
    why = describe_trouble(error, asked.spec)
    if isinstance(error, ProviderNotSetUpError):
        where = f"{asked.label} was not asked: " if asked.target else ""
        return _trouble(f"{where}{why}", scope, asked.hint, is_note=True)
    message = f"{asked.label} cannot list its resources: {why}"
    return _trouble(message, scope, asked.hint, is_note=False)


def _why_unusable(error: Exception) -> str:
    return _first_issue(error.issues if isinstance(error, ManifestError) else ()) or str(error)


def _first_issue(issues: Sequence[ValidationIssue]) -> str:
    """Return the first of some problems on one line, with the number of further ones."""
    if not issues:
        return ""
    first, *more = issues
    further = f"; `scalable validate` shows {len(more)} more" if more else ""
    return f"{' '.join(str(first).split())}{further}"


def _normal(provider: str) -> str:
    return provider.strip().lower()
