"""The Role of the documentation is enough for a run, and what it lacks is named."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes_clusters import cluster, spec
from kubernetes_site import KubernetesSite, documented_objects
from slurm_site import wait_until

from scalable.providers.registry import get_provider
from scalable.testing.conformance import by_value
from scalable.testing.conformance.running import square

pytestmark = pytest.mark.filterwarnings("ignore::distributed.versions.VersionMismatchWarning")


@pytest.fixture
def role(root: Path) -> dict[str, Any]:
    """The Role of the documentation."""
    (found,) = documented_objects(root, "Role")
    return found


def become_user(
    site: KubernetesSite, namespace: str, role: Mapping[str, Any], kubeconfig: Path
) -> None:
    """Write the kubeconfig of a user who has this role in a namespace, and no other."""
    place = {"name": "user", "namespace": namespace}
    subject = {"kind": "ServiceAccount", **place}
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "user"}
    annotations = {"kubernetes.io/service-account.name": "user"}
    site.apply(
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": place},
        {**role, "metadata": place},
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": place,
            "roleRef": reference,
            "subjects": [subject],
        },
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "type": "kubernetes.io/service-account-token",
            "metadata": {**place, "annotations": annotations},
        },
    )

    def tokens() -> list[str]:
        secrets = [s for s in site.get("secrets", namespace) if s["metadata"]["name"] == "user"]
        return [s["data"]["token"] for s in secrets if "token" in s.get("data", {})]

    wait_until(tokens, "the user has a token")
    config = yaml.safe_load(site.kubeconfig.read_text(encoding="utf-8"))
    current = next(c for c in config["contexts"] if c["name"] == config["current-context"])
    (user,) = (u for u in config["users"] if u["name"] == current["context"]["user"])
    user["user"] = {"token": base64.b64decode(tokens()[0]).decode()}
    kubeconfig.write_text(yaml.safe_dump(config), encoding="utf-8")


def test_the_role_of_the_documentation_suffices(
    site: KubernetesSite,
    namespace: str,
    role: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    become_user(site, namespace, role, tmp_path / "kubeconfig")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    with cluster(namespace, {"alpha": {}}) as running:
        running.scale(alpha=2)
        running.scale(alpha=1)
        with running.client() as client:
            assert client.submit(by_value(square), 3, tag="alpha").result(120) == 9
    assert site.leftovers(namespace) == []


@pytest.mark.parametrize(
    ("resource", "verbs"),
    [
        ("daskclusters", ["create"]),
        ("secrets", ["create"]),
        ("pods", ["list"]),
        ("pods/portforward", ["get", "create"]),  # which of them depends on the release
    ],
)
def test_a_missing_permission_is_named(
    site: KubernetesSite,
    namespace: str,
    role: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    resource: str,
    verbs: list[str],
) -> None:
    (rule,) = (rule for rule in role["rules"] if resource in rule["resources"])
    rule["verbs"] = [verb for verb in rule["verbs"] if verb not in verbs] or ["deletecollection"]
    become_user(site, namespace, role, tmp_path / "kubeconfig")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    wanted = spec(namespace, {"alpha": {}}, {"startup_timeout": "60s"})
    with pytest.raises(Exception, match="Role") as told:
        get_provider("kubernetes").build_cluster(wanted)
    assert resource in str(told.value)
    assert any(verb in str(told.value) for verb in verbs)
    wait_until(lambda: not site.leftovers(namespace), "nothing is left")
