from __future__ import annotations

import pytest

from scalable.manifest.validate import ValidationReport
from scalable.providers.kubernetes import KubernetesOptions, KubernetesProvider
from scalable.providers.kubernetes.options import Resources, Toleration
from scalable.testing.offline import spec_of

EVERYTHING = """
    namespace: scalable
    context: gke_project_europe-west4_main
    image: ghcr.io/jgcri/scalable-worker:latest
    n_workers: 4
    adaptive: {minimum: 1, maximum: 16, idle_timeout: 10m, target_duration: 5m}
    worker_service_account: worker.example
    resources:
      requests: {cpu: 500m, memory: 2Gi}
      limits: {cpu: 2, memory: 2Gi}
    env: {OMP_NUM_THREADS: "4"}
    tolerations:
      - {key: dedicated, value: workers, effect: NoSchedule}
      - {operator: Exists, effect: NoExecute, tolerationSeconds: 60}
    node_selector: {pool: workers, topology.kubernetes.io/zone: a}
    scheduler_cpu: 0.5
    scheduler_memory: 4G
"""


def report_of(options: str) -> ValidationReport:
    return KubernetesProvider().validate(spec_of("kubernetes", options))


def test_all_options() -> None:
    assert report_of(EVERYTHING).issues == ()
    options = KubernetesProvider().parse_options(spec_of("kubernetes", EVERYTHING))
    assert options.resources == Resources.model_validate(
        {
            "requests": {"cpu": "500m", "memory": "2Gi"},
            "limits": {"cpu": 2, "memory": 2**31},
        }
    )
    assert options.resources.requests.cpu == 500
    assert options.tolerations[1] == Toleration.model_validate(
        {"operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 60}
    )
    assert options.scheduler_cpu == 500
    assert options.scheduler_memory == 4 * 10**9


def test_no_option_is_required() -> None:
    assert report_of("").issues == ()
    assert KubernetesProvider().parse_options(spec_of("kubernetes")).namespace is None


@pytest.mark.parametrize(
    ("line", "path", "message"),
    [
        ("namespace: Scalable", "namespace", "must be a name of lower-case letters"),
        (f"namespace: {'a' * 64}", "namespace", "63 characters at most"),
        ("namespace: a-", "namespace", "must be a name of lower-case letters"),
        ("image: my image", "image", "must be a container image"),
        ("worker_service_account: a_b", "worker_service_account", "must be a name"),
        ("resources: {requests: {cpu: lots}}", "resources.requests.cpu", "an amount of CPU"),
        ("resources: {requests: {cpu: 0}}", "resources.requests.cpu", "an amount of CPU"),
        ("resources: {limits: {memory: 5X}}", "resources.limits.memory", "an amount of memory"),
        ("resources: {limits: {mem: 5G}}", "resources.limits.mem", "unknown key"),
        ("resources: {memory: 5G}", "resources.memory", "unknown key"),
        (
            "resources: {requests: {memory: 2Gi}, limits: {memory: 2G}}",
            "resources",
            "requests.memory must not be above limits.memory",
        ),
        ("env: {1A: x}", "env.1A", "must be the name of an environment variable"),
        ("env: {A: [x]}", "env.A", "must be text"),
        ("tolerations: {key: a}", "tolerations", "must be a list"),
        ("tolerations: [{key: a, operator: In}]", "tolerations[0].operator", "'Equal' or 'Exists'"),
        ("tolerations: [{value: a}]", "tolerations[0]", "operator Equal needs a key"),
        (
            "tolerations: [{key: a, operator: Exists, value: b}]",
            "tolerations[0]",
            "operator Exists goes without a value",
        ),
        (
            "tolerations: [{key: a, effect: NoSchedule, tolerationSeconds: 5}]",
            "tolerations[0]",
            "tolerationSeconds goes with effect: NoExecute only",
        ),
        ("tolerations: [{kye: a}]", "tolerations[0].kye", "did you mean 'key'?"),
        ("node_selector: {pool: -x}", "node_selector.pool", "must be the value of a label"),
        ("node_selector: {pool: true}", "node_selector.pool", "write it in quotes"),
        ("scheduler_cpu: none", "scheduler_cpu", "an amount of CPU"),
        ("scheduler_memory: 0", "scheduler_memory", "more than 0"),
        ("name_space: a", "name_space", "did you mean 'namespace'?"),
    ],
)
def test_invalid_values(line: str, path: str, message: str) -> None:
    report = report_of(line)
    assert message in report.issues[0].message
    assert [(issue.path, issue.line) for issue in report.errors][:1] == [
        (f"targets.here.{path}", 6)
    ]


def test_every_problem_is_found_at_once_and_located() -> None:
    report = report_of(
        "namespace: A\nresources:\n  limits: {cpu: lots}\nnodeselector: {}\n"
        "workers: {gcma: 2}\nlimits: {max_hourly_cost: 3}"
    )
    assert [(issue.path.removeprefix("targets.here."), issue.line) for issue in report.errors] == [
        ("namespace", 6),
        ("resources.limits.cpu", 8),
        ("nodeselector", 9),
        ("workers.gcma", 10),
        ("limits.max_hourly_cost", 11),
    ]


def test_every_option_is_described() -> None:
    schema = KubernetesProvider().options_schema()
    assert set(schema["properties"]) == set(KubernetesOptions.model_fields)
    for model in (schema, *schema["$defs"].values()):
        assert all(
            option["description"].endswith(".") for option in model.get("properties", {}).values()
        )
    assert "tolerationSeconds" in schema["$defs"]["Toleration"]["properties"]


@pytest.mark.parametrize("variable", ["DASK_WORKER_NAME", "DASK_SCHEDULER_ADDRESS"])
def test_no_variable_replaces_the_name_of_a_worker(variable: str) -> None:
    (issue,) = report_of(f"env: {{{variable}: a}}").errors
    assert (issue.path, issue.code) == (f"targets.here.env.{variable}", "E_BAD_VALUE")
    spec = spec_of("kubernetes", "", f"gcam: {{env: {{{variable}: a}}}}")
    (issue,) = KubernetesProvider().validate(spec).errors
    assert (issue.path, issue.code) == ("components.gcam.env", "E_BAD_VALUE")


@pytest.mark.parametrize(
    ("mounts", "message"),
    [
        ('{"pvc:In_puts": /a}', "lower-case letters"),
        ('{"secret:": /a}', "secret:NAME"),
        ('{"configMap:a b": /a}', "lower-case letters"),
        ('{"pvc:a": /a, "pvc:b": /a}', "the path of another mount"),
        ('{"pvc:a": "/a:b"}', "a colon"),
    ],
)
def test_mounts_that_no_pod_can_have(mounts: str, message: str) -> None:
    spec = spec_of("kubernetes", "", f"gcam: {{mounts: {mounts}}}")
    (issue,) = KubernetesProvider().validate(spec).errors
    assert (issue.path, message in issue.message) == ("components.gcam.mounts", True)


@pytest.mark.parametrize(
    "image", ["model.sif x", "/images/model.sif", "--privileged", "docker://ghcr.io/a/b"]
)
def test_an_image_that_no_registry_has(image: str) -> None:
    spec = spec_of("kubernetes", "", f"gcam: {{image: '{image}'}}")
    (issue,) = KubernetesProvider().validate(spec).errors
    assert (issue.path, issue.code) == ("components.gcam.image", "E_BAD_VALUE")


@pytest.mark.parametrize(
    "image", ["localhost:5000/a/b:1", f"ghcr.io/a/B_c.d:7.1@sha256:{'0' * 64}", "dask"]
)
def test_images_by_tag_and_digest(image: str) -> None:
    spec = spec_of("kubernetes", "", f"gcam: {{image: '{image}'}}")
    assert KubernetesProvider().validate(spec).issues == ()
