from __future__ import annotations

import gzip
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from scalable.manifest.parser import parse_manifest
from scalable.planning import build_plan
from scalable.providers.base import DeploymentSpec
from scalable.providers.cloud.aws import AWSBatchProvider
from scalable.providers.cloud.aws.instances import MAX_USER_DATA, boot_script, user_data
from scalable.providers.cloud.aws.machines import MACHINES, smallest_machine
from scalable.providers.cloud.aws.names import Run
from scalable.providers.cloud.aws.tasks import Place
from scalable.providers.tls import make_credentials
from scalable.testing.offline import rendered, spec_of

PLACE = Place("us-east-1", "vpc-1", ["subnet-1"], ["sg-1"], "arn:key", "CERT\nIFICATE", profile="p")


def artifacts(options: str, components: str = "gcam: {}") -> dict[str, Any]:
    spec = spec_of("aws", f"cluster_type: ec2\n{options}", components)
    aws = AWSBatchProvider()
    plan = build_plan(spec, aws).scale_plan
    return {each.name[3:]: json.loads(each.content) for each in aws.render(spec, plan)}


def test_one_call_for_all_workers_of_a_group() -> None:
    found = artifacts("region: us-east-1\nworkers: 7", "gcam: {cpus: 3, memory: 10G}")
    run = found["RunInstances-gcam.json"]
    assert (run["MinCount"], run["MaxCount"]) == (1, 7)
    assert run["InstanceType"] == "m6i.xlarge"
    assert run["InstanceInitiatedShutdownBehavior"] == "terminate"
    assert run["MetadataOptions"]["HttpTokens"] == "required"
    assert "InstanceMarketOptions" not in run
    for tags in run["TagSpecifications"]:
        assert {"Key": "scalable-component", "Value": "gcam"} in tags["Tags"]


def test_no_ecs_without_fargate() -> None:
    assert not any("Task" in name or "Cluster" in name for name in artifacts("region: us-east-1"))


def test_options_of_instances() -> None:
    options = (
        "instance_type: g5.2xlarge\nami: ami-0a1b2c3d\nvolume_size: 200\ninstance_profile: mine\n"
        "spot: true\nspot_fallback: true\npublic_ip: false\nworkers: 1"
    )
    found = artifacts(options, "ml: {gpus: 1}")
    run = found["RunInstances-ml.json"]
    assert run["InstanceType"] == "g5.2xlarge"
    assert run["ImageId"] == "ami-0a1b2c3d"
    assert run["IamInstanceProfile"] == {"Name": "mine"}
    assert run["BlockDeviceMappings"][0]["Ebs"]["VolumeSize"] == 200
    assert run["InstanceMarketOptions"]["MarketType"] == "spot"
    assert run["NetworkInterfaces"][0]["AssociatePublicIpAddress"] is False
    assert "--gpus=all" in run["UserData"]
    # The scheduler is on demand, and no role is made beside the one that is named.
    assert "InstanceMarketOptions" not in found["RunInstances-scheduler.json"]
    assert not any("Role" in name or "Profile" in name for name in found)


@pytest.mark.parametrize(("more", "silence"), [("", 900), ("startup_timeout: 2h", 7200)])
def test_an_instance_ends_whose_worker_is_frozen_and_left_alone(more: str, silence: int) -> None:
    found = artifacts(f"region: us-east-1\nworkers: 1\n{more}")
    told = f"the worker lost the scheduler {silence} s ago"
    assert told in found["RunInstances-gcam.json"]["UserData"]
    assert told not in found["RunInstances-scheduler.json"]["UserData"]


def test_user_data_has_no_key_and_fits() -> None:
    credentials = make_credentials()
    place = Place("us-east-1", "vpc-1", ["subnet-1"], ["sg-1"], "arn:key", credentials.cert)
    script = boot_script(
        Run("r", "me"), place, part="gcam", image="i", command=["python3"], env={"A": "b"}
    )
    data = user_data(script)
    assert len(data) < MAX_USER_DATA / 4
    text = gzip.decompress(data).decode()
    assert text.startswith("#cloud-config\n")
    assert "PRIVATE KEY" not in text
    assert user_data(script) == data


@pytest.mark.parametrize(
    "value",
    [
        "\U0001f30d \u00e9 \u6f22 \U00020bb7",
        "a\nb\tc",
        "\"'\\ $HOME `x` %d {{ v }} # : -",
        "\x7f\x85\u2028\ufeff",
    ],
)
def test_a_variable_reaches_the_container_as_it_is(tmp_path: Path, value: str) -> None:
    run = Run("r", "me")
    script = boot_script(run, PLACE, part="gcam", image="i", command=["x"], env={"A": value})
    # As cloud-init does: PyYAML reads it, and the command is written into a file.
    (command,) = yaml.safe_load(gzip.decompress(user_data(script)))["runcmd"]
    boot(tmp_path, command)
    arguments = (tmp_path / "docker.args").read_text("utf-8")
    assert f"<A={value}>" in arguments


PROGRAMS = {
    "curl": """case "$*" in
        *api/token*) echo T;;
        *"aws-ec2-metadata-token: T"*instance-id*) echo i-0123;;
        *) exit 1;;
        esac""",
    "aws": 'case "$*" in "ssm get-parameter"*) printf "KEY\\nLINES\\n";; *) exit 1;; esac',
    "systemctl": "exit 0",
    "docker": 'for a; do printf "%s\\n" "<$a>"; done > docker.args; env > docker.env; exit "${DOCKER_EXIT:-0}"',
    "shutdown": "echo shut down > shutdown.log",
}


def boot(tmp_path: Path, script: str, **env: str) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    for name, text in PROGRAMS.items():
        (programs / name).write_text(f"#!/bin/sh\n{text}\n")
        (programs / name).chmod(0o755)
    sh, base = shutil.which("sh"), "/usr/bin:/bin"
    assert sh is not None
    (tmp_path / "boot").write_text(script)
    subprocess.run(
        [sh, str(tmp_path / "boot")],
        cwd=tmp_path,
        env={"PATH": f"{programs}:{base}", **env},
        timeout=60,
        check=False,
    )


def test_the_boot_script_starts_a_container_with_the_key_in_its_environment(tmp_path: Path) -> None:
    script = boot_script(
        Run("r", "me"),
        PLACE,
        part="gcam",
        image="img:1",
        command=["python3", "-c", "print('$HOME')", "--name", "$ID"],
        env={"A": "it's $B"},
    )
    boot(tmp_path, script)
    arguments = (tmp_path / "docker.args").read_text()
    assert "<A=it's $B>" in arguments
    assert "<print('$HOME')>\n<--name>\n<gcam-i-0123>" in arguments
    assert "<--log-opt=awslogs-stream=gcam/i-0123>" in arguments
    assert "<DASK_DISTRIBUTED__COMM__TLS__WORKER__KEY>" in arguments
    assert "KEY\nLINES" not in arguments
    assert (
        "DASK_DISTRIBUTED__COMM__TLS__WORKER__KEY=KEY\nLINES"
        in (tmp_path / "docker.env").read_text()
    )
    assert (tmp_path / "shutdown.log").exists()


@pytest.mark.parametrize("broken", ["docker", "aws", "curl"])
def test_an_instance_shuts_down_however_its_script_ends(
    tmp_path: Path, broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PROGRAMS, broken, "exit 7")
    script = boot_script(Run("r", "me"), PLACE, part="gcam", image="i", command=["x"], env={})
    boot(tmp_path, script)
    assert (tmp_path / "shutdown.log").exists()


def test_an_instance_that_boots_again_shuts_down(tmp_path: Path) -> None:
    config = yaml.safe_load(gzip.decompress(user_data("exit 0")))
    (first,) = config["bootcmd"]
    here = tmp_path / "instance"
    here.mkdir()
    script = first.replace("/var/lib/cloud/instance", str(here))
    assert script != first
    boot(tmp_path, script)
    assert not (tmp_path / "shutdown.log").exists()
    shutil.rmtree(tmp_path / "programs")
    boot(tmp_path, script)
    assert (tmp_path / "shutdown.log").exists()


def test_the_password_of_a_registry_is_of_its_region(tmp_path: Path) -> None:
    image = "123456789012.dkr.ecr.eu-west-1.amazonaws.com/gcam:7"
    script = boot_script(Run("r", "me"), PLACE, part="gcam", image=image, command=["x"], env={})
    assert "aws ecr get-login-password --region eu-west-1 |" in script


@pytest.mark.parametrize(
    ("registry", "is_ecr"),
    [
        ("123456789012.dkr.ecr.eu-west-1.amazonaws.com", True),
        ("123456789012.dkr.ecr-fips.us-gov-west-1.amazonaws.com", True),
        ("123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn", True),
        ("123456789012.dkr.ecr.eu-west-1.example.com", False),
        ("ghcr.io", False),
        ("localhost:5000", False),
    ],
)
def test_the_password_is_for_registries_of_aws_alone(registry: str, is_ecr: bool) -> None:
    run, image = Run("r", "me"), f"{registry}/gcam@sha256:{'0' * 64}"
    script = boot_script(run, PLACE, part="gcam", image=image, command=["x"], env={})
    assert ("docker login" in script) is is_ecr
    assert ("aws ecr" in script) is is_ecr


@pytest.mark.parametrize(
    ("cpus", "memory", "gpus", "name"),
    [
        (1, 0, 0, "c6i.large"),
        (2, 7 * 10**9, 0, "m6i.large"),
        (2, 15 * 10**9, 0, "r5.large"),
        (96, 0, 0, "c6i.24xlarge"),
        (128, 0, 0, "c6i.32xlarge"),
        (4, 0, 1, "g4dn.xlarge"),
        (4, 0, 8, "g5.48xlarge"),
    ],
)
def test_the_smallest_type_that_fits(cpus: int, memory: int, gpus: int, name: str) -> None:
    found = smallest_machine(cpus, memory, gpus)
    assert found is not None
    assert found.name == name


def test_what_no_type_has() -> None:
    assert smallest_machine(129, 0, 0) is None
    assert smallest_machine(1, 800 * 2**30, 0) is None
    assert len({each.name for each in MACHINES}) == len(MACHINES)


@pytest.mark.parametrize(
    ("options", "component", "issue"),
    [
        ("instance_type: c6i.large", "cpus: 4", "components.gcam.cpus"),
        ("instance_type: c6i.large", "memory: 4Gi", "components.gcam.memory"),
        ("", "cpus: 500", "components.gcam.cpus"),
        ("instance_type: c6i.large", "gpus: 1", "components.gcam.gpus"),
        (
            "",
            f"tags: {{{', '.join(f'k{i}: v' for i in range(46))}}}",
            "components.gcam.tags",
        ),
    ],
)
def test_components_that_are_too_large(options: str, component: str, issue: str) -> None:
    spec = spec_of("aws", f"cluster_type: ec2\n{options}", f"gcam: {{{component}}}")
    (found,) = AWSBatchProvider().validate(spec).errors
    assert found.path == issue


def test_costs_of_instances() -> None:
    spec = spec_of(
        "aws",
        "cluster_type: ec2\nregion: us-east-1\nworkers: 2\nvolume_size: 100",
        "gcam: {cpus: 4}",
    )
    cost = build_plan(spec, AWSBatchProvider()).cost
    assert cost is not None
    assert cost.hourly is not None
    items = {item.description: item for item in cost.items}
    assert items["gcam"].unit == "c6i.xlarge"
    assert float(cost.hourly) == pytest.approx(0.0416 + 2 * 0.17 + 300 * 0.08 / 730 + 3 * 0.005)


@pytest.mark.parametrize(
    "value", ["it's-a-s3cret", 'say-"s3cret"-twice', "two\ns3cret-lines", "\\s3cret\\", "s3cret-🌍"]
)
def test_no_spelling_of_a_value_is_shown(value: str) -> None:
    document = {
        "version": 1,
        "project": {"name": "p"},
        "targets": {"t": {"provider": "aws", "region": "us-east-1", "cluster_type": "ec2"}},
        "components": {"gcam": {"env": {"A": "${TOKEN}", "B": "x-${TOKEN}-y"}}},
    }
    manifest = parse_manifest(document, env={"TOKEN": value}, target_name="t")
    spec = DeploymentSpec.from_manifest(manifest, target_name="t")
    shown = "\n".join(rendered(AWSBatchProvider(), spec).values())
    assert "A=${TOKEN}" in shown
    assert "s3cret" not in shown
