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
            "pod_template: {metadata: {labels: {team: a b}}}",
            "pod_template.metadata.labels.team",
            "the value of a label",
        ),
        (
            "pod_template: {spec: {volumes: [{name: a, emptyDir: {sizeLimit: 500MB}}]}}",
            "pod_template.spec.volumes[0].emptyDir.sizeLimit",
            "quantity of Kubernetes",
        ),
        (
            "pod_template: {spec: {initContainers: [{name: a, resources: {limits: {cpu: lots}}}]}}",
            "pod_template.spec.initContainers[0].resources.limits.cpu",
            "quantity of Kubernetes",
        ),
        (WORKER % "env: {A: b}", f"{IN_WORKER}.env", "list of mappings"),
        (WORKER % "env: [{name: A, value: 1}]", f"{IN_WORKER}.env[0]", "write it in quotes"),
        (
            WORKER % "volumeMounts: [{name: a, mountPath: /etc/scalable-tls}]",
            f"{IN_WORKER}.volumeMounts[0]",
            "a worker needs",
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


@pytest.mark.parametrize(
    ("tag", "message"),
    [
        ("team: climate & energy", "the value of a label"),
        (f"team: {'a' * 64}", "63 characters at most"),
        ("-team: a", "the key of a label"),
        (f"{'a' * 64}: a", "63 characters at most"),
        ("scalable/run: a", "is set by"),
        ("dask.org/component: a", "is set by"),
    ],
)
def test_tags_that_cannot_be_labels(tag: str, message: str) -> None:
    spec = spec_of("kubernetes", "", f"gcam:\n  tags:\n    {tag}")
    (issue,) = KubernetesProvider().validate(spec).errors
    assert issue.path.startswith("components.gcam.tags.")
    assert issue.line == 10
    assert message in issue.message


def test_a_mount_that_would_hide_what_a_worker_needs() -> None:
    spec = spec_of("kubernetes", "", "gcam: {mounts: {'pvc:a': /scalable}}")
    (issue,) = KubernetesProvider().validate(spec).errors
    assert (issue.path, issue.line) == ("components.gcam.mounts", 8)
    assert "choose another path" in issue.message


@pytest.mark.parametrize(
    "source", ["data", "pvc:", "gs:bucket", "nfs:host", "nfs:host:path", "emptyDir:500MB"]
)
def test_unknown_kinds_of_mounts(source: str) -> None:
    spec = spec_of("kubernetes", "", f"gcam: {{mounts: {{'{source}': /data}}}}")
    (issue,) = KubernetesProvider().validate(spec).errors
    assert (issue.path, issue.line) == ("components.gcam.mounts", 8)
    assert source in issue.message
    assert ("emptyDir:2Gi" if source.startswith("emptyDir") else "pvc:CLAIM") in issue.message


def test_a_component_that_does_not_exist() -> None:
    (issue,) = (
        KubernetesProvider()
        .validate(spec_of("kubernetes", "components: {gcma: {queue: a}}"))
        .errors
    )
    assert (issue.path, issue.code) == ("targets.here.components.gcma", "E_UNKNOWN_COMPONENT")
    assert "'gcam'" in issue.message
