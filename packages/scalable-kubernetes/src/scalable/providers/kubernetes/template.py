"""The user's template of a worker's pod: what it may not contain, and its merge with ours. Pure functions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Any, Literal, TypeGuard

from scalable.providers.kubernetes.labels import is_ours, label_problem
from scalable.providers.kubernetes.quantities import is_quantity, parse_quantity

__all__ = ["is_our_mount", "is_our_variable", "merge_template", "pod_amounts", "template_problems"]

_NAMED_LISTS = frozenset(
    {"containers", "initContainers", "volumes", "env", "imagePullSecrets", "hostAliases", "ports"}
)
"""Lists whose items are merged by name."""

_OURS_IN_CONTAINER = {
    "command": "starts the worker",
    "args": "would follow the command that starts the worker",
    "image": "is the image of the component or of the target",
    "livenessProbe": "would end workers whose tasks hold Python's global lock",
}
_OURS_IN_SPEC = {
    "restartPolicy": "must be that of Deployments",
    "nodeName": "would bypass the scheduler of Kubernetes; use node_selector",
}
_OURS_IN_METADATA = ("name", "generateName", "namespace", "ownerReferences", "finalizers")
_OUR_FILES = ("/etc/scalable-tls", "/scalable/started")
"""Where a worker's container has the keys of the run, and the note that it has started."""


def merge_template(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """Return a pod template with what the user's adds.

    Mappings are merged. Items of lists that have names are merged by name; other lists are joined. Anything else of
    the user's replaces ours, which `template_problems` allows only where nothing depends on it.

    Examples
    --------
    >>> ours = {"spec": {"containers": [{"name": "worker", "image": "a"}], "tolerations": []}}
    >>> theirs = {"spec": {"containers": [{"name": "worker", "tty": True}], "priorityClassName": "low"}}
    >>> merge_template(ours, theirs)["spec"]["containers"]
    [{'name': 'worker', 'image': 'a', 'tty': True}]
    """
    return _merged(ours, theirs)


def _merged(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(ours)
    for key, value in theirs.items():
        present = result.get(key)
        if isinstance(value, Mapping) and isinstance(present, Mapping):
            result[key] = _merged(present, value)
        elif _is_list(value) and _is_list(present):
            named = key in _NAMED_LISTS
            result[key] = _by_name(present, value) if named else [*present, *value]
        else:
            result[key] = value
    return result


def _by_name(ours: Sequence[Any], theirs: Sequence[Any]) -> list[Any]:
    result = {item["name"]: item for item in ours}
    for item in theirs:
        known = result.get(item["name"])
        result[item["name"]] = _merged(known, item) if known else item
    return list(result.values())


def pod_amounts(spec: Mapping[str, Any], part: Literal["requests", "limits"]) -> dict[str, Decimal]:
    """Return what a pod requests, or what it is limited to, by resource.

    Its containers run at the same time, and those that initialise it one after the other, before them:
    https://kubernetes.io/docs/concepts/workloads/pods/init-containers/#resource-sharing-within-containers

    Examples
    --------
    >>> worker = {"resources": {"requests": {"cpu": "1500m"}}}
    >>> aside = {"resources": {"limits": {"cpu": "1"}}}  # whose request is its limit
    >>> pod_amounts({"containers": [worker, aside], "initContainers": []}, "requests")
    {'cpu': Decimal('2.500')}
    """
    total: dict[str, Decimal] = {}
    for container in spec["containers"]:
        _add(total, _amounts(container, part))
    for container in spec.get("initContainers", ()):
        if container.get("restartPolicy") == "Always":  # it goes on beside the others
            _add(total, _amounts(container, part))
    for container in spec.get("initContainers", ()):
        for name, amount in _amounts(container, part).items():
            total[name] = max(total.get(name, Decimal(0)), amount)
    return total


def _add(total: dict[str, Decimal], amounts: Mapping[str, Decimal]) -> None:
    for name, amount in amounts.items():
        total[name] = total.get(name, Decimal(0)) + amount


def _amounts(container: Mapping[str, Any], part: str) -> dict[str, Decimal]:
    resources = container.get("resources", {})
    limits = resources.get("limits", {})
    # What is limited and not requested is requested as well.
    found = limits if part == "limits" else {**limits, **resources.get("requests", {})}
    return {name: parse_quantity(amount) for name, amount in found.items()}


def _is_list(value: object) -> TypeGuard[Sequence[Any]]:
    return isinstance(value, Sequence) and not isinstance(value, str)


Problem = tuple[tuple[str | int, ...], str]
"""Where something is wrong in a template, and what."""


def template_problems(template: Mapping[str, Any]) -> Iterator[Problem]:
    """Find what a template must not contain, because it would replace what a worker needs or no API server takes it.

    Yields
    ------
    tuple
        The path in the template, and the message.

    Examples
    --------
    >>> list(template_problems({"spec": {"nodeName": "n1"}}))
    [(('spec', 'nodeName'), 'would bypass the scheduler of Kubernetes; use node_selector')]
    """
    for key in template.keys() - {"metadata", "spec"}:
        yield (key,), "a pod template has `metadata` and `spec` only"
    for key in ("metadata", "spec"):
        if not isinstance(template.get(key, {}), Mapping):
            yield (key,), "must be a mapping"
            return
    yield from _metadata_problems(template.get("metadata", {}))
    yield from _spec_problems(template.get("spec", {}))


def _metadata_problems(metadata: Mapping[str, Any]) -> Iterator[Problem]:
    for key in metadata:
        if key in _OURS_IN_METADATA:
            yield ("metadata", key), "is set by the Dask operator; remove it"
    for kind in ("labels", "annotations"):
        values = metadata.get(kind, {})
        if not isinstance(values, Mapping):
            yield ("metadata", kind), "must be a mapping"
            continue
        for key, value in values.items():
            where = ("metadata", kind, key)
            if not isinstance(value, str):
                yield where, "must be text; write it in quotes"
            elif kind == "labels" and (problem := label_problem(key, value)):
                yield where, problem
            elif is_ours(key):
                yield where, "is set by Scalable or the Dask operator; remove it"


def _spec_problems(spec: Mapping[str, Any]) -> Iterator[Problem]:
    for key, why in _OURS_IN_SPEC.items():
        if key in spec:
            yield ("spec", key), why
    for key in ("containers", "initContainers", "volumes"):
        items = spec.get(key, [])
        if not _is_list(items) or not all(isinstance(each, Mapping) for each in items):
            yield ("spec", key), "must be a list of mappings"
            continue
        for number, item in enumerate(items):
            where = ("spec", key, number)
            if not isinstance(item.get("name"), str):
                yield (
                    where,
                    "needs a name, by which it is merged; that of the worker's container is `worker`",
                )
            elif item["name"].startswith("scalable-"):
                yield (
                    (*where, "name"),
                    "is the name of a volume that a worker needs; choose another",
                )
            elif key != "volumes":
                yield from _container_problems(where, item)
            elif not _has_size(item):
                yield (
                    (*where, "emptyDir", "sizeLimit"),
                    'must be a quantity of Kubernetes as text, such as "500M" or "2Gi"',
                )


def _has_size(volume: Mapping[str, Any]) -> bool:
    """Return whether the size of a volume is one of Kubernetes, or not given."""
    empty = volume.get("emptyDir")
    return not isinstance(empty, Mapping) or is_quantity(empty.get("sizeLimit", "0"))


def _container_problems(
    where: tuple[str | int, ...], container: Mapping[str, Any]
) -> Iterator[Problem]:
    if container["name"] == "worker" and "initContainers" not in where:
        for key, why in _OURS_IN_CONTAINER.items():
            if key in container:
                yield (*where, key), why
        yield from _mount_problems(where, container.get("volumeMounts", []))
    yield from _env_problems(where, container.get("env", []))
    yield from _resource_problems(where, container.get("resources", {}))


def _mount_problems(where: tuple[str | int, ...], mounts: object) -> Iterator[Problem]:
    if not _is_list(mounts):
        yield (*where, "volumeMounts"), "must be a list of mappings"
        return
    for number, item in enumerate(mounts):
        if isinstance(item, Mapping) and is_our_mount(str(item.get("mountPath", ""))):
            yield (
                (*where, "volumeMounts", number),
                "would hide what a worker needs; choose another path",
            )


def is_our_mount(path: str) -> bool:
    """Return whether something mounted there would hide what a worker needs.

    Examples
    --------
    >>> [is_our_mount(path) for path in ("/scalable/", "/etc/scalable-tls/a", "/scalable/data", "/etc")]
    [True, True, False, False]
    """
    wanted = PurePosixPath(path)
    return wanted == PurePosixPath("/scalable") or any(map(wanted.is_relative_to, _OUR_FILES))


def is_our_variable(name: str) -> bool:
    """Return whether a variable is one by which a worker is known, or finds its scheduler."""
    return name in ("DASK_WORKER_NAME", "DASK_SCHEDULER_ADDRESS")


def _env_problems(where: tuple[str | int, ...], env: object) -> Iterator[Problem]:
    if not _is_list(env):
        yield (*where, "env"), "must be a list of mappings with `name` and `value`"
        return
    for number, item in enumerate(env):
        name = str(item.get("name", "")) if isinstance(item, Mapping) else ""
        if not name:
            yield (*where, "env", number), "needs a name and a value"
        elif is_our_variable(name):
            yield (*where, "env", number), "replaces what connects a worker with its scheduler"
        elif not isinstance(item.get("value", ""), str):
            yield (*where, "env", number), "needs text as its value; write it in quotes"


def _resource_problems(where: tuple[str | int, ...], resources: object) -> Iterator[Problem]:
    for part in ("requests", "limits"):
        amounts = resources.get(part, {}) if isinstance(resources, Mapping) else None
        if not isinstance(amounts, Mapping):
            yield (*where, "resources"), "must be a mapping of `requests` and `limits`"
            return
        for name, amount in amounts.items():
            if not is_quantity(amount):
                yield (
                    (*where, "resources", part, name),
                    'must be a quantity of Kubernetes as text, such as "500m", "500M" or "2Gi"',
                )
