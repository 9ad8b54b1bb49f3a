from __future__ import annotations

import pytest

from scalable.providers.kubernetes import KubernetesProvider
from scalable.testing.offline import spec_of

WORKER = "pod_template: {spec: {containers: [{name: worker, %s}]}}"
IN_WORKER = "pod_template.spec.containers[0]"


@pytest.mark.parametrize(
    ("template", "path", "message"),
    [
        ("pod_template: {kind: Pod}", "pod_template.kind", "`metadata` and `spec` only"),
        ("pod_template: {metadata: {name: a}}", "pod_template.metadata.name", "Dask operator"),
        (
            "pod_template: {metadata: {labels: {dask.org/component: a}}}",
            'pod_template.metadata.labels."dask.org/component"',
            "is set by",
        ),
        (
            "pod_template: {metadata: {labels: {a: 1}}}",
            "pod_template.metadata.labels.a",
            "write it in quotes",
        ),
        ("pod_template: {spec: {containers: {}}}", "pod_template.spec.containers", "list"),
        ("pod_template: {spec: {containers: [{image: a}]}}", IN_WORKER, "needs a name"),
        (
            "pod_template: {spec: {restartPolicy: Never}}",
            "pod_template.spec.restartPolicy",
            "Deployments",
        ),
        (WORKER % "command: [sh]", f"{IN_WORKER}.command", "starts the worker"),
        (WORKER % "args: [--help]", f"{IN_WORKER}.args", "command"),
        (WORKER % "image: a", f"{IN_WORKER}.image", "image of the component"),
        (
            WORKER % "env: [{name: DASK_SCHEDULER_ADDRESS, value: a}]",
            f"{IN_WORKER}.env[0]",
            "connects a worker with its scheduler",
        ),
        (
            "pod_template: {spec: {volumes: [{name: scalable-tls}]}}",
            "pod_template.spec.volumes[0].name",
            "a worker needs",
        ),
        (
            WORKER % "resources: {limits: {ephemeral-storage: 500MB}}",
            f"{IN_WORKER}.resources.limits.ephemeral-storage",
            "quantity of Kubernetes",
        ),
        (
            WORKER % "resources: {limits: {ephemeral-storage: 5}}",
            f"{IN_WORKER}.resources.limits.ephemeral-storage",
            "as text",
        ),
    ],
)
def test_what_a_worker_needs_cannot_be_replaced(template: str, path: str, message: str) -> None:
    (issue,) = KubernetesProvider().validate(spec_of("kubernetes", template)).errors
    assert message in issue.message
    assert (issue.path, issue.line) == (f"targets.here.{path}", 6)


def test_templates_of_components_are_checked_too() -> None:
    options = "components:\n  gcam:\n    pod_template: {spec: {nodeName: n1}}"
    (issue,) = KubernetesProvider().validate(spec_of("kubernetes", options)).errors
    assert (issue.path, issue.line) == (
        "targets.here.components.gcam.pod_template.spec.nodeName",
        8,
    )


def test_a_template_may_have_other_containers_with_commands() -> None:
    template = "pod_template: {spec: {containers: [{name: log, image: a, command: [tail]}]}}"
    assert KubernetesProvider().validate(spec_of("kubernetes", template)).ok


@pytest.mark.parametrize("source", ["data", "pvc:", "gs:bucket", "nfs:host", "nfs:host:path"])
def test_unknown_kinds_of_mounts(source: str) -> None:
    spec = spec_of("kubernetes", "", f"gcam: {{mounts: {{'{source}': /data}}}}")
    (issue,) = KubernetesProvider().validate(spec).errors
    assert (issue.path, issue.line) == ("components.gcam.mounts", 8)
    assert source in issue.message
    assert "pvc:CLAIM" in issue.message


def test_a_component_that_does_not_exist() -> None:
    (issue,) = (
        KubernetesProvider()
        .validate(spec_of("kubernetes", "components: {gcma: {queue: a}}"))
        .errors
    )
    assert (issue.path, issue.code) == ("targets.here.components.gcma", "E_UNKNOWN_COMPONENT")
    assert "'gcam'" in issue.message
