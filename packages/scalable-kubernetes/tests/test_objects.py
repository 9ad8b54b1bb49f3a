from __future__ import annotations

from typing import Any

import pytest
import yaml

from scalable.manifest.parser import parse_manifest
from scalable.planning import build_plan
from scalable.providers.base import DeploymentSpec
from scalable.providers.kubernetes import KubernetesProvider
from scalable.providers.kubernetes.names import group_name, run_prefix, scheduler_name
from scalable.providers.kubernetes.request import worker_request
from scalable.testing.offline import manifest_of, spec_of

LONGEST = "a" * 40


def objects_of(spec: DeploymentSpec) -> dict[str, Any]:
    provider = KubernetesProvider()
    plan = build_plan(spec, provider).scale_plan
    return {each.name: yaml.safe_load(each.content) for each in provider.render(spec, plan)}


def worker_of(options: str = "", component: str = "") -> dict[str, Any]:
    """Return the pod spec of the workers of one component, which the API server would get."""
    made = objects_of(spec_of("kubernetes", options, f"gcam: {{{component}}}"))["gcam.yaml"]
    return dict(made["spec"]["worker"]["spec"])


def container_of(options: str = "", component: str = "") -> dict[str, Any]:
    return dict(worker_of(options, component)["containers"][0])


def texts(value: Any, key: str = "") -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        return [found for name, item in value.items() for found in texts(item, name)]
    if isinstance(value, list):
        return [found for item in value for found in texts(item, key)]
    return [(key, value)]


def test_every_object_of_a_run_carries_its_labels() -> None:
    for made in objects_of(spec_of("kubernetes")).values():
        labels = made["metadata"]["labels"]
        assert labels["app.kubernetes.io/managed-by"] == "scalable"
        assert labels["scalable/run"] == labels["dask.org/cluster-name"] == "here-000000"
        assert made["metadata"]["annotations"]["scalable/owner"]


def test_the_longest_names_fit_into_the_value_of_a_label() -> None:
    run = f"{run_prefix(LONGEST)}-123456"
    # https://kubernetes.io/docs/concepts/overview/working-with-objects/labels
    assert len(group_name(run, LONGEST, 9999)) <= 63
    # The operator refuses clusters with longer names (dask_kubernetes.operator.validation).
    assert len(run) <= 53
    assert len(scheduler_name(run)) <= 63


@pytest.mark.parametrize("target", ["A", "a-b-c-d-e-f-g", "a_______b", "K8s"])
def test_a_run_has_a_name_that_services_may_have(target: str) -> None:
    prefix = run_prefix(target)
    assert prefix[0].isalpha()
    assert prefix[-1].isalnum()
    assert prefix == prefix.lower()


def test_the_cluster_has_no_workers_of_its_own() -> None:
    cluster = objects_of(spec_of("kubernetes"))["cluster.yaml"]
    assert cluster["spec"]["worker"]["replicas"] == 0


@pytest.mark.parametrize(("seconds", "timeout"), [("1h", 3600), ("5", 30), ("0", None)])
def test_the_operator_ends_what_nobody_drives(seconds: str, timeout: int | None) -> None:
    cluster = objects_of(spec_of("kubernetes", f'orphan_timeout: "{seconds}"'))["cluster.yaml"]
    assert cluster["spec"].get("idleTimeout") == timeout


def test_quantities_are_text_because_the_definitions_of_the_operator_accept_no_numbers() -> None:
    options = "resources: {requests: {cpu: 1, memory: 2G}, limits: {cpu: 2, memory: 3G}}"
    resources = container_of(options, "gpus: 1")["resources"]
    assert resources == {
        "requests": {"cpu": "1000m", "nvidia.com/gpu": "1", "memory": "2000000000"},
        "limits": {"cpu": "2000m", "nvidia.com/gpu": "1", "memory": "3000000000"},
    }


def test_a_component_takes_precedence_over_the_resources_of_its_target() -> None:
    options = "resources: {requests: {cpu: 500m, memory: 1G}, limits: {cpu: 1, memory: 2G}}"
    assert container_of(options, "cpus: 4, memory: 8G")["resources"] == {
        "requests": {"cpu": "4000m", "memory": "8000000000"},
        "limits": {"memory": "8000000000"},
    }


def test_memory_is_limited_where_only_a_request_says_how_much() -> None:
    container = container_of("resources: {requests: {memory: 1G}}")
    assert container["resources"]["limits"] == {"memory": "1000000000"}
    command = container["command"]
    assert command[command.index("--memory-limit") + 1] == "1000000000"


def test_a_worker_is_told_its_name_by_the_operator_and_its_scheduler_by_us() -> None:
    container = container_of()
    command = container["command"]
    assert command[command.index("--name") + 1] == "$(DASK_WORKER_NAME)"
    assert "tls://here-000000-scheduler:8786" in command
    env = {each["name"]: each["value"] for each in container["env"]}
    assert env["DASK_SCHEDULER_ADDRESS"] == "tls://here-000000-scheduler:8786"


def test_variables_of_a_component_take_precedence_and_are_not_expanded() -> None:
    env = container_of(
        "env: {A: target, B: target}", 'env: {A: "$(B) $HOME", OMP_NUM_THREADS: "7"}'
    )
    found = {each["name"]: each["value"] for each in env["env"]}
    # https://kubernetes.io/docs/tasks/inject-data-application/define-interdependent-environment-variables
    assert (found["A"], found["B"]) == ("$$(B) $$HOME", "target")
    assert found["OMP_NUM_THREADS"] == "7"


def test_autoscalers_of_nodes_evict_neither_workers_nor_scheduler() -> None:
    made = objects_of(spec_of("kubernetes"))
    for metadata in (
        made["gcam.yaml"]["spec"]["worker"]["metadata"],
        made["cluster.yaml"]["spec"]["scheduler"]["metadata"],
    ):
        assert metadata["annotations"] == {
            "karpenter.sh/do-not-disrupt": "true",
            "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
        }


def test_mounts() -> None:
    mounts = "{/data: /in, 'pvc:claim': /out, 'configMap:c': /c, 'secret:s': /s, emptyDir: /e, 'nfs:h:/x': /n}"
    spec = worker_of("", f"mounts: {mounts}")
    volumes = {each.pop("name"): each for each in spec["volumes"]}
    places = {
        each["mountPath"]: (volumes[each["name"]], each.get("readOnly", False))
        for each in spec["containers"][0]["volumeMounts"]
        if each["name"].startswith("mount-")
    }
    assert places == {
        "/in": ({"hostPath": {"path": "/data"}}, False),
        "/out": ({"persistentVolumeClaim": {"claimName": "claim"}}, False),
        "/c": ({"configMap": {"name": "c"}}, True),
        "/s": ({"secret": {"secretName": "s"}}, True),
        "/e": ({"emptyDir": {}}, False),
        "/n": ({"nfs": {"server": "h", "path": "/x"}}, False),
    }


def test_placement_and_accounts() -> None:
    options = """
    worker_service_account: models
    image_pull_secrets: [registry]
    node_selector: {pool: large}
    tolerations: [{operator: Exists, effect: NoExecute, tolerationSeconds: 60}]
    """
    spec = worker_of(options)
    assert spec["serviceAccountName"] == "models"
    assert spec["imagePullSecrets"] == [{"name": "registry"}]
    assert spec["nodeSelector"] == {"pool": "large"}
    assert spec["tolerations"] == [
        {"operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 60}
    ]


def test_a_component_has_options_of_its_own() -> None:
    options = """
    node_selector: {pool: small}
    queue: short
    components: {gcam: {node_selector: {pool: large}, queue: long}}
    """
    spec = spec_of("kubernetes", options, "gcam: {}\nplots: {}")
    made = objects_of(spec)
    for tag, pool, queue in (("gcam", "large", "long"), ("plots", "small", "short")):
        worker = made[f"{tag}.yaml"]["spec"]["worker"]
        assert worker["spec"]["nodeSelector"] == {"pool": pool}
        assert worker["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == queue


def test_a_template_adds_what_there_is_no_option_for() -> None:
    options = """
    pod_template:
      metadata: {labels: {team: land}, annotations: {note: a}}
      spec:
        priorityClassName: low
        tolerations: [{operator: Exists}]
        volumes: [{name: shm, emptyDir: {medium: Memory}}]
        containers:
          - name: worker
            volumeMounts: [{name: shm, mountPath: /dev/shm}]
            securityContext: {runAsUser: 1000}
            env: [{name: A, value: b}]
          - {name: sidecar, image: sidecar}
    """
    made = objects_of(spec_of("kubernetes", options))["gcam.yaml"]["spec"]["worker"]
    plain = worker_of()
    assert made["metadata"]["labels"]["team"] == "land"
    assert made["metadata"]["annotations"]["note"] == "a"
    spec = made["spec"]
    assert spec["priorityClassName"] == "low"
    assert spec["volumes"] == [*plain["volumes"], {"name": "shm", "emptyDir": {"medium": "Memory"}}]
    worker, sidecar = spec["containers"]
    assert sidecar == {"name": "sidecar", "image": "sidecar"}
    ours = plain["containers"][0]
    assert worker["command"] == ours["command"]
    assert worker["volumeMounts"] == [
        *ours["volumeMounts"],
        {"name": "shm", "mountPath": "/dev/shm"},
    ]
    assert worker["env"] == [*ours["env"], {"name": "A", "value": "b"}]
    assert worker["securityContext"] == {"runAsUser": 1000}


@pytest.mark.parametrize("value", ["1e3", "64e5173", "0o14", "y", "N", "no", "12:30", "2026-01-01"])
def test_what_is_rendered_is_text_for_kubectl_too(value: str) -> None:
    spec = spec_of("kubernetes", "", f"gcam: {{env: {{A: '{value}'}}}}")
    plan = build_plan(spec, KubernetesProvider()).scale_plan
    found = {each.name: each.content for each in KubernetesProvider().render(spec, plan)}
    # kubectl reads all of these as numbers, truth values or times unless they are in quotes.
    assert f"- name: A\n          value: '{value}'\n" in found["gcam.yaml"]


def test_what_is_rendered_has_neither_keys_nor_values_of_variables() -> None:
    manifest = manifest_of(
        "kubernetes", "", "gcam: {env: {TOKEN: '${TOKEN}', OTHER: 'a ${TOKEN}'}}"
    )
    secret = "pa$$w$rd\n'x'"
    spec = DeploymentSpec.from_manifest(
        parse_manifest(manifest, env={"TOKEN": secret}), target_name="here"
    )
    assert spec.components["gcam"].env["TOKEN"] == secret
    made = objects_of(spec)
    assert made["keys.yaml"]["stringData"] == {}
    env = made["gcam.yaml"]["spec"]["worker"]["spec"]["containers"][0]["env"]
    shown = {each["name"]: each["value"] for each in env}
    assert shown["TOKEN"] == "${TOKEN}"
    assert shown["OTHER"] == "a ${TOKEN}"
    # What a run sends is not redacted.
    options = KubernetesProvider().parse_options(spec)
    assert worker_request(spec.components["gcam"], options, "i").env["TOKEN"] == secret
