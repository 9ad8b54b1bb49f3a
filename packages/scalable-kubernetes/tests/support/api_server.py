"""An API server of Kubernetes for tests: objects of one namespace over HTTP, and an operator that acts at once."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

Object = dict[str, Any]


class ApiServer:
    """Keeps objects as an API server does: versions, labels, conflicts, finalizers, and what goes with its owner.

    Attributes
    ----------
    refusals : list of (int, str)
        Answers to the next requests, instead of what they ask for.
    late_refusals : list of (int, str)
        Answers to the next requests that create something, which is done all the same.
    logs : dict
        The logs of pods, by name.
    room : int or None
        Deployments that a quota allows; None for any number.
    has_operator : bool
        Whether somebody acts on DaskClusters and DaskWorkerGroups.
    unlisted : set of str
        Kinds that may not be listed.
    undeletable : set of str
        Kinds that may not be deleted.
    """

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], Object] = {}
        self.requests: list[tuple[str, str]] = []
        self.refusals: list[tuple[int, str]] = []
        self.late_refusals: list[tuple[int, str]] = []
        self.logs: dict[str, str] = {}
        self.room: int | None = None
        self.has_operator = True
        self.unlisted: set[str] = set()
        self.undeletable: set[str] = set()
        self._numbers = itertools.count(1)
        self._lock = threading.RLock()

    def of_kind(self, kind: str) -> dict[str, Object]:
        """Return the objects of a kind by name."""
        with self._lock:
            return {name: each for (k, name), each in self.objects.items() if k == kind}

    def put(self, kind: str, made: Object) -> Object:
        """Add an object."""
        with self._lock:
            number = next(self._numbers)
            made["metadata"] |= {
                "uid": f"uid-{number}",
                "resourceVersion": str(number),
                "creationTimestamp": f"2026-11-28T14:{number // 60:02}:{number % 60:02}Z",
            }
            self.objects[kind, made["metadata"]["name"]] = made
            return made

    def change(self, kind: str, name: str, **fields: Any) -> None:
        """Set fields of an object, as a controller does."""
        with self._lock:
            made = self.objects[kind, name]
            made |= fields
            made["metadata"]["resourceVersion"] = str(next(self._numbers))

    # -- What is asked of it

    def answer(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        url = urlsplit(path)
        kind, _, rest = url.path.partition("/namespaces/models/")[2].partition("/")
        name, _, part = rest.partition("/")
        with self._lock:
            self.requests.append((method, kind))
            if self.refusals:
                code, message = self.refusals.pop(0)
                return code, {"message": message}
            if method == "POST" and self.late_refusals:
                self._create(kind, body)
                code, message = self.late_refusals.pop(0)
                return code, {"message": message}
            if method == "POST":
                return self._create(kind, body)
            if not name and kind in self.unlisted:
                return 403, {"message": f"{kind} is forbidden: cannot list resource {kind!r}"}
            if not name:
                wanted = parse_qs(url.query).get("labelSelector", [""])[0]
                labels = dict(each.split("=") for each in wanted.split(",") if each)
                items = [o for o in self.of_kind(kind).values() if _has(o, labels)]
                return 200, {"items": items, "metadata": {}}
            found = self.objects.get((kind, name))
            if found is None:
                return 404, {"message": f'{kind} "{name}" not found'}
            if part == "log":
                return 200, self.logs.get(name, f"the log of {name}")
            if method == "PATCH":
                return self._patch(kind, found, body)
            if method == "DELETE" and kind in self.undeletable:
                return 403, {"message": f"{kind} is forbidden: cannot delete resource {kind!r}"}
            if method == "DELETE":
                self.delete(kind, name)
            return 200, found

    def _create(self, kind: str, made: Object) -> tuple[int, Any]:
        if (kind, made["metadata"]["name"]) in self.objects:
            return 409, {"message": "already exists"}
        self.put(kind, made)
        if kind == "daskclusters":
            made["metadata"]["finalizers"] = ["kopf.zalando.org/KopfFinalizerMarker"]
        if kind == "daskworkergroups" and self.has_operator:
            self.act_on(made)
        return 201, made

    def _patch(self, kind: str, found: Object, change: Object) -> tuple[int, Any]:
        version = change.get("metadata", {}).pop("resourceVersion", None)
        if version not in (None, found["metadata"]["resourceVersion"]):
            return 409, {"message": "the object has been modified"}
        _merge(found, change)
        found["metadata"]["resourceVersion"] = str(next(self._numbers))
        if "deletionTimestamp" in found["metadata"] and not found["metadata"].get("finalizers"):
            self._forget(kind, found)
        return 200, found

    def delete(self, kind: str, name: str) -> None:
        """Delete an object, and what it owns."""
        found = self.objects[kind, name]
        if found["metadata"].get("finalizers") and not self.has_operator:
            found["metadata"]["deletionTimestamp"] = "2026-11-28T15:00:00Z"
        else:
            self._forget(kind, found)

    def _forget(self, kind: str, found: Object) -> None:
        self.objects.pop((kind, found["metadata"]["name"]), None)
        for (owned, name), each in [*self.objects.items()]:
            owners = {owner["uid"] for owner in each["metadata"].get("ownerReferences", ())}
            if found["metadata"]["uid"] in owners and (owned, name) in self.objects:
                self.delete(owned, name)

    # -- The operator and the controllers

    def act_on(self, group: Object) -> None:
        """Make the Deployments that a worker group lacks, as far as the quota allows, each with a pod."""
        name = group["metadata"]["name"]
        mine = {"dask.org/workergroup-name": name}
        there = sum(_has(each, mine) for each in self.of_kind("deployments").values())
        for _ in range(there, group["spec"]["worker"]["replicas"]):
            if self.room is not None and len(self.of_kind("deployments")) >= self.room:
                said = {"message": "deployments.apps is forbidden: exceeded quota: few"}
                annotations = group["metadata"].setdefault("annotations", {})
                annotations["kopf.zalando.org/daskworkergroup_create"] = json.dumps(said)
                group["metadata"]["resourceVersion"] = str(next(self._numbers))
                return
            worker = f"{name}-worker-{next(self._numbers)}"
            labels = {**group["metadata"]["labels"], **mine, "dask.org/component": "worker"}
            metadata = {"name": worker, "labels": labels, "ownerReferences": [_owner(group)]}
            deployment = self.put("deployments", {"metadata": metadata})
            self.add_pod(deployment)

    def add_pod(self, deployment: Object, **status: Any) -> str:
        """Add a pod of a Deployment; return its name."""
        worker = deployment["metadata"]["name"]
        name = f"{worker}-{next(self._numbers)}"
        container = {"name": "worker", "env": [{"name": "DASK_WORKER_NAME", "value": worker}]}
        running = {"name": "worker", "ready": True, "state": {"running": {}}}
        metadata = {
            "name": name,
            "labels": deployment["metadata"]["labels"],
            "ownerReferences": [_owner(deployment)],
        }
        self.put(
            "pods",
            {
                "metadata": metadata,
                "spec": {"containers": [container], "nodeName": "node"},
                "status": status or {"phase": "Running", "containerStatuses": [running]},
            },
        )
        return name


def _owner(made: Object) -> Object:
    return {"name": made["metadata"]["name"], "uid": made["metadata"]["uid"]}


def _has(made: Object, labels: Mapping[str, str]) -> bool:
    return bool(labels.items() <= made["metadata"].get("labels", {}).items())


def _merge(found: Object, change: Object) -> None:
    for key, value in change.items():
        if value is None:
            found.pop(key, None)
        elif isinstance(value, dict) and isinstance(found.get(key), dict):
            _merge(found[key], value)
        else:
            found[key] = value


@contextmanager
def serving(directory: Path) -> Iterator[tuple[ApiServer, Path]]:
    """Provide a server, and the kubeconfig that leads to it."""
    server = ApiServer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def answer(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            body = json.loads(self.rfile.read(length)) if length else None
            code, answer = server.answer(self.command, self.path, body)
            data = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
            self.send_response(code)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PATCH = do_DELETE = answer  # noqa: N815 - names of http.server

        def log_message(self, *_: object) -> None:
            pass

    with http_server(Handler) as url:
        kubeconfig = directory / "kubeconfig"
        write_kubeconfig(kubeconfig, url)
        yield server, kubeconfig


@contextmanager
def http_server(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """Provide the URL of a server in a thread."""
    http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    http.daemon_threads = True
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{http.server_port}"
    finally:
        http.shutdown()
        http.server_close()
        thread.join()


def write_kubeconfig(path: Path, server: str, token: str = "secret") -> None:
    """Write the kubeconfig of a server whose certificate, if it has one, nobody knows."""
    cluster = {"server": server, "insecure-skip-tls-verify": server.startswith("https")}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "a", "cluster": cluster}],
        "users": [{"name": "a", "user": {"token": token}}],
        "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}],
        "current-context": "a",
    }
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
