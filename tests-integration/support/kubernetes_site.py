"""A real Kubernetes for tests: as its users see it, and what its administrator can do to it.

``python kubernetes_site.py DIRECTORY`` writes the tests' images as archives, to be loaded into a cluster that tests are
to use by ``KUBECONFIG``.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import functools
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import another_python
import container_image
import pytest
import yaml
from slurm_site import wait_until

SCRIPTS = Path(__file__).parents[1] / "kubernetes"

IMAGES: dict[str, Mapping[str, str]] = {
    "worker": {},
    "other": {"SCALABLE_CONFORMANCE_IMAGE": "other"},
}
"""Images with this Python and Dask: of each, the variables of its containers."""

ENSEMBLE = ("scalable-kubernetes", "fair", "matplotlib")
"""What the images of examples/climate-ensemble have: as a workflow in the cluster needs it, and its workers."""

ANOTHER_PYTHON = "/opt/another/python"
"""In each image, this Python."""
_ANOTHER_PYTHON = another_python.scripts("/opt/another")

INSIDE = "SCALABLE_TESTS_INSIDE"
"""Set for tests that run inside of the cluster's network."""

OURS = "app.kubernetes.io/managed-by=scalable"
KINDS = ("jobs", "daskclusters", "daskworkergroups", "deployments", "services", "secrets", "pods")


def image(kind: str) -> str:
    """Return the name of one of the `IMAGES` of this state of the tests."""
    program = Path(container_image.__file__).read_text(encoding="utf-8")
    recipe = repr((program, container_image.facts(), IMAGES[kind], _ANOTHER_PYTHON)).encode()
    return f"localhost/scalable-tests-{kind}:{hashlib.sha256(recipe).hexdigest()[:12]}"


def documented_objects(root: Path, *kinds: str) -> list[dict[str, Any]]:
    """Return the objects of these kinds that the provider's page of the documentation shows, in that order."""
    text = (root / "docs/providers/kubernetes.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```yaml\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    found = [o for block in blocks if "kind:" in block for o in yaml.safe_load_all(block)]
    return [o for o in found if o.get("kind") in kinds]


def write_images(directory: Path) -> list[Path]:
    """Write all `IMAGES` as archives into a directory, which need not exist."""
    directory.mkdir(parents=True, exist_ok=True)
    archives = [directory / f"{kind}.tar" for kind in IMAGES]
    for kind, archive in zip(IMAGES, archives, strict=True):
        container_image.write_image(archive, image(kind), env=IMAGES[kind], scripts=_ANOTHER_PYTHON)
    return archives


class KubernetesSite:
    """A cluster with the Dask operator, by ``kubectl``.

    Parameters
    ----------
    kubeconfig : Path
        Of an administrator.
    """

    def __init__(self, kubeconfig: Path) -> None:
        self.kubeconfig = kubeconfig

    def kubectl(self, *arguments: str, given: str = "") -> str:
        """Run one of its commands; return what it prints."""
        done = subprocess.run(
            [*self._nearby(), "kubectl", f"--kubeconfig={self.kubeconfig}", *arguments],
            input=given,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr}"
        return done.stdout

    def apply(self, *objects: Mapping[str, Any]) -> None:
        """Create or change objects."""
        self.kubectl("apply", "--filename=-", given=yaml.safe_dump_all(objects))

    def get(self, kind: str, namespace: str, selector: str = "") -> list[dict[str, Any]]:
        """Return the objects of a kind, or of several with commas between."""
        options = [f"--selector={selector}"] if selector else []
        text = self.kubectl("get", kind, f"--namespace={namespace}", "--output=json", *options)
        items: list[dict[str, Any]] = json.loads(text)["items"]
        return items

    def names(self, kind: str, namespace: str, selector: str = "") -> list[str]:
        """Return the names of the objects of a kind."""
        return [item["metadata"]["name"] for item in self.get(kind, namespace, selector)]

    def leftovers(self, namespace: str, selector: str = OURS) -> list[str]:
        """Return what exists of clusters of Scalable, as ``kind/name``; pods as long as a container of them runs."""
        return [
            f"{item['kind'].lower()}/{item['metadata']['name']}"
            for item in self.get(",".join(KINDS), namespace, selector)
            if not _has_ended(item)
        ]

    @contextlib.contextmanager
    def namespace(self) -> Iterator[str]:
        """Provide a namespace, and remove it with all that is in it."""
        name = f"scalable-tests-{uuid.uuid4().hex[:8]}"
        self.kubectl("create", "namespace", name)
        wait_until(lambda: self.names("serviceaccounts", name), "it has its service account")
        try:
            yield name
        finally:
            self.kubectl("delete", "namespace", name, "--wait=false")

    @contextlib.contextmanager
    def stopped_operator(self) -> Iterator[None]:
        """Stop the operator for a while."""
        pytest.skip("the operator of this cluster is not the tests' to stop")
        yield

    @contextlib.contextmanager
    def cut(self) -> Iterator[None]:
        """Lose what the client sends to the cluster for a while, and what it would receive, in silence."""
        pytest.skip("the network of this cluster is not the tests' to cut")
        yield

    def enter(self, *, inside: bool) -> Sequence[str]:
        """Return the words before a command that run it inside of the cluster's network, or outside."""
        if inside:
            pytest.skip("this process is outside of the cluster")
        return ()

    def load_ensemble(self, directory: Path) -> dict[str, str]:
        """Provide images with what `ENSEMBLE` requires, and return their names by those of its components.

        Parameters
        ----------
        directory : Path
            For a file of half a gigabyte, which is removed again.
        """
        pytest.skip("images of the ensemble are loaded into the tests' own cluster only")

    def _nearby(self) -> Sequence[str]:
        """Return the words before a command that make it reach the API server, even if the client does not."""
        return ()


class Node(KubernetesSite):
    """A cluster of one node on this machine, which the tests have brought up.

    Parameters
    ----------
    root : Path
        Its directory: see ``up.sh``.
    """

    def __init__(self, root: Path) -> None:
        super().__init__(root / "kubeconfig")
        self.root = root

    def is_up(self) -> bool:
        """Return whether ``up.sh`` has brought it up."""
        return (self.root / "client.pid").exists()

    def has(self, images: set[str]) -> bool:
        """Return whether it has all of these images."""
        command = ["ctr", "--namespace=k8s.io", "images", "list", "--quiet"]
        done = subprocess.run(
            [*self.enter(inside=True), *command], check=True, stdout=subprocess.PIPE, text=True
        )
        return images <= {*done.stdout.split()}

    def load_ensemble(self, directory: Path) -> dict[str, str]:
        # Once for all processes of pytest-xdist. Under new names each time that the tests run, because what is
        # installed from a source tree may have changed.
        session = os.environ.get("PYTEST_XDIST_TESTRUNUID", uuid.uuid4().hex)[:12]
        images = {
            name: f"localhost/scalable-tests-{name}:{session}" for name in ("fair", "analysis")
        }
        with (self.root / "ensemble.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not self.has({*images.values()}):
                archive = directory / "ensemble.tar"
                variables = {
                    image: {"SCALABLE_TESTS_IMAGE": name} for name, image in images.items()
                }
                container_image.write_images(archive, variables, packages=ENSEMBLE)
                self.load(archive)
                archive.unlink()
        return images

    def load(self, archive: Path) -> None:
        """Import an image."""
        command = ["ctr", "--namespace=k8s.io", "images", "import", str(archive)]
        subprocess.run([*self.enter(inside=True), *command], check=True, stdout=subprocess.DEVNULL)

    @contextlib.contextmanager
    def outside(self) -> Iterator[None]:
        """Have this thread, and all that it starts, in the network of a client outside of the cluster."""
        with Path("/proc/self/ns/net").open() as before, self._network("client").open() as network:
            _enter(network.fileno())
            try:
                yield
            finally:
                _enter(before.fileno())

    @contextlib.contextmanager
    def stopped_operator(self) -> Iterator[None]:
        self._signal("operator", "STOP")
        try:
            yield
        finally:
            self._signal("operator", "CONT")

    @contextlib.contextmanager
    def cut(self) -> Iterator[None]:
        client = ["nsenter", "--target", self._pid("client"), "--net", "iptables"]
        drops = [["INPUT", "!", "-i", "lo"], ["OUTPUT", "!", "-o", "lo"]]
        for chain, *packets in drops:
            subprocess.run([*client, "-I", chain, *packets, "-j", "DROP"], check=True)
        try:
            yield
        finally:
            for chain, *packets in drops:
                subprocess.run([*client, "-D", chain, *packets, "-j", "DROP"], check=True)

    def enter(self, *, inside: bool) -> Sequence[str]:
        if inside:
            if INSIDE in os.environ:
                return ()
            namespaces = ("--net", "--mount", "--pid", f"--wd={Path.cwd()}")
            return ("nsenter", "--target", self._pid("node"), *namespaces)
        return ("nsenter", "--target", self._pid("client"), "--net")

    def _nearby(self) -> Sequence[str]:
        return self.enter(inside=True)

    def _signal(self, program: str, signal: str) -> None:
        command = ["kill", f"-{signal}", (self.root / f"{program}.pid").read_text().strip()]
        node = ["nsenter", "--target", self._pid("node"), "--pid"]
        subprocess.run([*node, *command], check=True)

    def _pid(self, name: str) -> str:
        return (self.root / f"{name}.pid").read_text().strip()

    def _network(self, name: str) -> Path:
        return Path(f"/proc/{self._pid(name)}/ns/net")


@contextlib.contextmanager
def provide(directory: Path, patch: pytest.MonkeyPatch) -> Iterator[KubernetesSite]:
    """Provide the cluster that ``KUBECONFIG`` names, or one of one node; skip with the reason if there is none.

    A node that was brought up by hand, which ``KUBECONFIG`` then names, stays up.

    While it is provided, this thread is outside of the cluster: of it, only the API server is reached.

    Parameters
    ----------
    directory : Path
        For files that stay as long as the tests run.
    patch : pytest.MonkeyPatch
        Changes the environment.
    """
    if kubeconfig := os.environ.get("KUBECONFIG"):
        if shutil.which("kubectl") is None:
            pytest.skip("KUBECONFIG names a cluster, but there is no kubectl")
        node = Node(Path(kubeconfig).parent)
        if not node.is_up():
            yield KubernetesSite(Path(kubeconfig))
            return
        if INSIDE in os.environ:
            yield node
            return
        load_images(node, directory)
        with node.outside():
            yield node
        return
    programs = _call(SCRIPTS / "build.sh")
    patch.setenv("PATH", programs, prepend=os.pathsep)
    node = Node(directory / "node")
    kopf = Path(sysconfig.get_path("scripts"), "kopf")
    try:
        subprocess.run([SCRIPTS / "up.sh", node.root, kopf], stdout=subprocess.DEVNULL, check=True)
        load_images(node, directory)
        patch.setenv("KUBECONFIG", str(node.kubeconfig))
        with node.outside():
            yield node
    finally:
        subprocess.run([SCRIPTS / "down.sh", node.root], check=True)


def load_images(node: Node, directory: Path) -> None:
    """Import all `IMAGES`, unless they are there."""
    if node.has({image(kind) for kind in IMAGES}):
        return
    for archive in write_images(directory):
        node.load(archive)
        archive.unlink()


def _has_ended(item: Mapping[str, Any]) -> bool:
    """Return whether it is a pod of which no container runs or will run."""
    # The kubelet keeps some for a minute before it removes them.
    if item["kind"] != "Pod":
        return False
    status = item["status"]
    containers = status.get("containerStatuses", [])
    gone = "deletionTimestamp" in item["metadata"] or status["phase"] in ("Succeeded", "Failed")
    return gone and bool(containers) and all(map(_has_stopped, containers))


def _has_stopped(container: Mapping[str, Any]) -> bool:
    # Of a container that it finds no more, the kubelet says that it waits, and how it ended before.
    # One that waits for an image that cannot be pulled has never run.
    state = container["state"]
    waits_for = state.get("waiting", {}).get("reason")
    return (
        "terminated" in state
        or waits_for in ("ErrImagePull", "ImagePullBackOff")
        or ("running" not in state and "terminated" in container.get("lastState", {}))
    )


def _call(script: Path) -> str:
    done = subprocess.run([script], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(done.stderr.strip().splitlines()[-1])
    return done.stdout.strip()


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _enter(namespace: int) -> None:
    """Do what `os.setns` does, which Python has from 3.12 on."""
    if _libc().setns(namespace, 0):
        raise OSError(ctypes.get_errno(), "setns")


if __name__ == "__main__":
    print(*write_images(Path(sys.argv[1])), sep="\n")
