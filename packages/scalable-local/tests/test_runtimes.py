"""How output of the runtimes is read, as recorded from Podman 4.3 and Docker 20.10."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from scalable.providers.base import Owned
from scalable.providers.local.containers import Runtime
from scalable.providers.local.runtimes import (
    RuntimeFailedError,
    first_installed,
    has_image,
    list_containers,
    probe,
    pull,
    remove_owned,
)

if TYPE_CHECKING:
    from conftest import Install

HOST: dict[str, Any] = {
    "cgroupControllers": ["cpuset", "cpu", "memory", "pids"],
    "security": {"rootless": False},
    "serviceIsRemote": False,
}
DOCKER: dict[str, Any] = {
    "MemoryLimit": True,
    "CpuCfsQuota": True,
    "SecurityOptions": ["name=seccomp,profile=default"],
    "OperatingSystem": "Debian GNU/Linux 12 (bookworm)",
}


def host(**changes: Any) -> dict[str, Any]:
    return {**HOST, **changes}


def test_the_first_that_is_installed_in_the_order_of_preference(install: Install) -> None:
    assert first_installed() is None
    install("apptainer")
    assert first_installed() == "apptainer"
    install("docker")
    assert first_installed() == "docker"


@pytest.mark.parametrize("name", ["podman", "docker", "apptainer", "singularity"])
def test_one_that_is_not_installed(name: str, install: Install) -> None:
    with pytest.raises(RuntimeFailedError, match=f"{name}: is not installed here"):
        probe(name)


@pytest.mark.parametrize(
    ("facts", "found"),
    [
        (host(), Runtime("podman", limits_memory=True, limits_cpus=True)),
        # A user's own, under cgroups of version 1, and of version 2 where the cpu controller is not delegated.
        (
            host(cgroupControllers=None, security={"rootless": True}),
            Runtime("podman", rootless=True),
        ),
        (
            host(cgroupControllers=["memory", "pids"], security={"rootless": True}),
            Runtime("podman", limits_memory=True, rootless=True),
        ),
    ],
)
def test_what_podman_can_do(install: Install, facts: dict[str, Any], found: Runtime) -> None:
    install("podman", "info", stdout=json.dumps({"host": facts}))

    assert probe("podman") == found


def test_what_docker_can_do(install: Install) -> None:
    install("docker", "info", stdout=json.dumps({**DOCKER, "CpuCfsQuota": False}))

    assert probe("docker") == Runtime("docker", limits_memory=True)


def test_a_daemon_that_does_not_answer_is_reported_with_dockers_message(install: Install) -> None:
    message = "Cannot connect to the Docker daemon at unix:///run/docker.sock. Is the docker daemon running?"
    install("docker", "info", stdout=json.dumps({"ServerErrors": [message]}))

    with pytest.raises(RuntimeFailedError, match="Is the docker daemon running"):
        probe("docker")


@pytest.mark.parametrize(
    ("name", "facts"),
    [
        ("podman", {"host": host(serviceIsRemote=True)}),
        ("docker", {**DOCKER, "SecurityOptions": ["name=seccomp", "name=rootless"]}),
        ("docker", {**DOCKER, "OperatingSystem": "Docker Desktop"}),
    ],
)
def test_containers_that_could_not_reach_the_scheduler(
    install: Install, name: str, facts: dict[str, Any]
) -> None:
    install(name, "info", stdout=json.dumps(facts))

    with pytest.raises(RuntimeFailedError, match="network apart"):
        probe(name)


def test_an_unavailable_image_is_reported_with_the_runtimes_message(install: Install) -> None:
    install(
        "podman",
        status=125,
        stderr="Trying to pull localhost/nope:1...\n"
        "Error: initializing source docker://localhost/nope:1: pinging container registry localhost",
    )

    assert not has_image("podman", "localhost/nope:1")
    with pytest.raises(RuntimeFailedError, match="podman: initializing source") as caught:
        pull("podman", "localhost/nope:1")
    assert caught.value.runtime == "podman"


def test_an_image_file_is_looked_for_and_not_fetched(install: Install, tmp_path: Path) -> None:
    install("apptainer")
    image = tmp_path / "gcam.sif"

    with pytest.raises(RuntimeFailedError, match="no such file"):
        pull("apptainer", str(image))
    image.touch()

    assert has_image("apptainer", str(image))


def test_without_a_daemon_there_are_no_containers(install: Install) -> None:
    install("docker", status=1, stderr="Cannot connect to the Docker daemon")

    assert list(list_containers(1000, "ann")) == []


def test_a_container_that_goes_while_they_are_listed_hides_no_other(
    install: Install, tmp_path: Path
) -> None:
    install("podman")
    listed = tmp_path / "listed"
    (tmp_path / "bin/podman").write_text(
        f"""#!/bin/sh
        case "$*" in
        ps*)
            [ -e {listed} ] || echo gone
            echo stays
            : >{listed} ;;
        *gone*)
            echo 'Error: no such object: "gone"' >&2
            exit 125 ;;
        *)
            printf 'gcam-1\\tlocal-1f00ba\\trunning\\n' ;;
        esac
        """
    )

    (found,) = list_containers(1000, "ann")

    assert (found.name, found.run_id, found.detail) == ("gcam-1", "local-1f00ba", "running")


def test_containers_that_cannot_be_inspected_are_not_none(install: Install) -> None:
    install("podman", "ps", stdout="stays")
    install("podman", "inspect", status=125, stderr="Error: the database is locked")

    with pytest.raises(RuntimeFailedError, match="locked"):
        list(list_containers(1000, "ann"))


@pytest.mark.parametrize(
    ("said", "left"),
    [
        ('Error: no container with name or ID "gcam-1" found: no such container', 0),
        ("Error response from daemon: No such container: gcam-1", 0),
        ("Error response from daemon: removal of container gcam-1 is already in progress", 0),
        ("Error response from daemon: permission denied", 1),
    ],
)
def test_a_container_that_another_has_removed_is_no_leftover(
    install: Install, said: str, left: int
) -> None:
    install("docker", "rm", status=1, stderr=said)

    found = list(remove_owned([Owned("docker container", "gcam-1", "run", "me")]))

    assert len(found) == left
