from __future__ import annotations

import csv
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalable.errors import UnknownHomeError
from scalable.manifest.schema import ComponentConfig
from scalable.providers.containers import (
    RUNTIMES,
    chosen_runtime,
    container_argv,
    host_paths,
    image_reference,
    is_read_by_client,
    mounts_and_preload,
    runs_as_child,
    unsafe_mount_characters,
)

CHILDREN = [runtime for runtime in RUNTIMES if runs_as_child(runtime)]
CLIENTS = [runtime for runtime in RUNTIMES if not runs_as_child(runtime)]

# Characters that a file name may contain: anything but NUL; surrogates have no UTF-8.
paths = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])).map("/".__add__)


@given(st.sampled_from(CHILDREN), paths, paths)
def test_a_bind_is_read_as_intended_or_known_to_be_unsafe(
    runtime: str, host: str, inside: str
) -> None:
    argv = container_argv(runtime, "a.sif", mounts={host: inside})

    # Singularity's own reading: binds by comma, then their parts by colon.
    (bind,) = (argv[i + 1] for i, argument in enumerate(argv) if argument == "--bind")
    read = [part.split(":") for part in bind.split(",")]
    if unsafe_mount_characters(runtime, host + inside):
        assert any(character in host + inside for character in ":,\n")
    else:
        assert read == [[host, inside]]


@given(st.sampled_from(CLIENTS), paths, paths)
def test_a_mount_is_read_as_intended_or_known_to_be_unsafe(
    runtime: str, host: str, inside: str
) -> None:
    argv = container_argv(runtime, "a:1", mounts={host: inside})

    # Docker's own reading: one record of CSV, of keys and values.
    (mount,) = (argv[i + 1] for i, argument in enumerate(argv) if argument == "--mount")
    if unsafe_mount_characters(runtime, host + inside):
        assert any(character in host + inside for character in ',"\r\n')
    else:
        (record,) = csv.reader([mount], strict=True)
        fields = dict(field.split("=", 1) for field in record)
        assert fields == {"type": "bind", "source": host, "target": inside}


def test_a_home_that_is_not_known_is_named() -> None:
    gcam = ComponentConfig(name="gcam", mounts={"~no-such-user/data": "/in"})
    with pytest.raises(UnknownHomeError, match="there is no user 'no-such-user'"):
        host_paths(gcam)
    script = ComponentConfig(name="gcam", preload_script="~no-such-user/pre.py")
    with pytest.raises(UnknownHomeError, match="there is no user 'no-such-user'"):
        mounts_and_preload(script)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_no_value_of_a_variable_is_an_argument(runtime: str) -> None:
    argv = container_argv(runtime, "a:1", mounts={}, variables=["TOKEN", "OTHER"])

    assert not any(
        "=" in argument for argument in argv if "TOKEN" in argument or "OTHER" in argument
    )


@pytest.mark.parametrize("runtime", CLIENTS)
def test_an_image_s_entry_point_and_network_are_not_used(runtime: str) -> None:
    argv = container_argv(runtime, "a:1", mounts={}, flags=["--name=x"])

    assert argv[:2] == [runtime, "run"]
    assert {"--entrypoint=", "--network=host", "--name=x"} <= set(argv)
    assert argv[-1] == "a:1"


@pytest.mark.parametrize(
    ("image", "understood"),
    [
        ("gcam:7", "docker://gcam:7"),
        ("jgcri/gcam:7.1", "docker://jgcri/gcam:7.1"),
        ("gcam@sha256:0123", "docker://gcam@sha256:0123"),
        ("ghcr.io/jgcri/gcam", "docker://ghcr.io/jgcri/gcam"),
        ("localhost/gcam", "docker://localhost/gcam"),
        ("127.0.0.1:5000/gcam:7", "docker://127.0.0.1:5000/gcam:7"),
        ("/images/gcam:7", "/images/gcam:7"),
        ("./gcam:7", "./gcam:7"),
        ("images/gcam", "images/gcam"),
        ("run.2/gcam.sif", "run.2/gcam.sif"),
        ("oras://ghcr.io/jgcri/gcam:7", "oras://ghcr.io/jgcri/gcam:7"),
        ("docker-archive:gcam.tar", "docker-archive:gcam.tar"),
    ],
)
def test_images_in_a_registry_are_uris_for_apptainer(image: str, understood: str) -> None:
    assert image_reference("apptainer", image) == understood


@pytest.mark.parametrize("runtime", CLIENTS)
def test_images_are_plain_references_for_podman_and_docker(runtime: str) -> None:
    assert image_reference(runtime, "docker://ghcr.io/jgcri/gcam:7") == "ghcr.io/jgcri/gcam:7"
    assert image_reference(runtime, "gcam:7") == "gcam:7"


@pytest.mark.parametrize(
    ("variable", "read"),
    [
        ("PATH", True),
        ("HOME", True),
        ("LD_PRELOAD", True),
        ("CONTAINER_HOST", True),
        ("CONTAINERS_CONF", True),
        ("DOCKER_HOST", True),
        ("GCAM_PATH", False),
        ("OMP_NUM_THREADS", False),
        ("CONTAINERSHIP", False),
    ],
)
def test_variables_that_a_client_itself_reads(variable: str, read: bool) -> None:
    assert [is_read_by_client(runtime, variable) for runtime in CLIENTS] == [read] * len(CLIENTS)


@pytest.mark.parametrize(
    ("containers", "settings", "runs"),
    [
        ("none", {"image": "gcam:7", "runtime": "podman"}, "none"),
        ("podman", {"image": "gcam:7", "runtime": "apptainer"}, "podman"),
        ("podman", {"image": "gcam:7", "runtime": "none"}, "podman"),
        ("auto", {"image": "gcam:7", "runtime": "apptainer"}, "apptainer"),
        ("auto", {"image": "gcam:7", "runtime": "none"}, "none"),
        ("auto", {"image": "gcam:7"}, "docker"),
        ("auto", {"runtime": "apptainer"}, "apptainer"),
        ("podman", {"runtime": "apptainer"}, "podman"),
        ("podman", {}, "none"),
        ("auto", {}, "none"),
    ],
)
def test_the_target_decides_what_runs_a_component(
    containers: str, settings: dict[str, Any], runs: str
) -> None:
    component = ComponentConfig(name="gcam", **settings)

    assert chosen_runtime(component, containers, "docker") == runs
