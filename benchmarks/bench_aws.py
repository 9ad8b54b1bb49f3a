"""20 workers on Fargate: calls, and the seconds until all have joined, compared with dask-cloudprovider.

Both run alternately in the account of ``tests-integration/aws``: a server of moto, and processes as tasks, so that no
money is spent, and what takes time is what each of them does. As by default, Scalable's communicate under TLS, and
dask-cloudprovider's workers have a nanny. Needs ``dask-cloudprovider[aws]`` and
``moto[server,ec2,ecs,iam,logs,ssm]``; without the former, prints the figures of Scalable alone.

    python benchmarks/bench_aws.py [--workers 20] [--rounds 3]
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "tests-integration/support"))

import aws_account
from aws_account import AwsAccount, Image
from aws_clusters import cluster


class Figures(NamedTuple):
    """Seconds until all workers have joined, and until all is removed, and calls of AWS."""

    up: float
    down: float
    calls: int


def ours(account: AwsAccount, workers: int) -> Figures:
    """Measure Scalable."""
    begun, before = time.perf_counter(), len(account.log)
    with cluster(account) as handle:
        handle.backend.scale_groups({"gcam": workers})
        handle.backend.wait_for_group("gcam", workers, timeout=600)
        up = time.perf_counter() - begun
        begun = time.perf_counter()
    return Figures(up, time.perf_counter() - begun, len(account.log) - before)


def theirs(account: AwsAccount, workers: int) -> Figures:
    """Measure dask-cloudprovider."""
    from dask_cloudprovider.aws import FargateCluster

    role = make_role(account)
    begun, before = time.perf_counter(), len(account.log)
    with FargateCluster(
        region_name=account.region,
        image="theirs",
        vpc=account.target["vpc"],
        subnets=account.target["subnets"],
        n_workers=workers,
        # Made before, since moto has none of the policies that it would attach.
        execution_role_arn=role,
        task_role_arn=role,
        fargate_use_private_ip=True,
        skip_cleanup=True,
    ) as their_cluster:
        their_cluster.wait_for_workers(workers, timeout=600)
        up = time.perf_counter() - begun
        begun = time.perf_counter()
    return Figures(up, time.perf_counter() - begun, len(account.log) - before)


def make_role(account: AwsAccount) -> str:
    """Create a role for tasks, and return its ARN."""
    trust: dict[str, Any] = {"Effect": "Allow", "Action": "sts:AssumeRole"}
    trust |= {"Principal": {"Service": "ecs-tasks.amazonaws.com"}}
    document = json.dumps({"Version": "2012-10-17", "Statement": [trust]})
    iam = account.client("iam")
    made = iam.create_role(RoleName="theirs", AssumeRolePolicyDocument=document)
    may = {"Effect": "Allow", "Action": ["logs:*", "ecr:*"], "Resource": "*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [may]})
    iam.put_role_policy(RoleName="theirs", PolicyName="theirs", PolicyDocument=policy)
    return str(made["Role"]["Arn"])


def old_commands(directory: Path) -> Image:
    """Return an image with the commands that distributed no longer has, and dask-cloudprovider calls."""
    for server in ("scheduler", "worker"):
        script = directory / f"dask-{server}"
        script.write_text(f'#!/bin/sh\nexec {shutil.which("dask")} {server} "$@"\n')
        script.chmod(0o755)
    return Image(env={"PATH": f"{directory}:{Path(sys.executable).parent}:/usr/bin:/bin"})


def main() -> None:
    """Run both alternately, and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    if not importlib.util.find_spec("moto"):
        sys.exit("bench_aws: install moto[server,ec2,ecs,iam,logs,ssm]")
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    sides = {"scalable": ours}
    if importlib.util.find_spec("dask_cloudprovider"):
        sides["dask-cloudprovider"] = theirs
    found: dict[str, list[Figures]] = {name: [] for name in sides}
    with (
        tempfile.TemporaryDirectory() as directory,
        pytest.MonkeyPatch.context() as patch,
        warnings.catch_warnings(),
        aws_account.provide(Path(directory), patch) as account,
    ):
        warnings.simplefilter("ignore")
        commands = Path(directory) / "commands"
        commands.mkdir()
        for _ in range(arguments.rounds):
            for name, measure in sides.items():
                account.renew()
                account.images["theirs"] = old_commands(commands)
                found[name].append(measure(account, arguments.workers))
    for name, rounds in found.items():
        up, down, calls = (statistics.median(column) for column in zip(*rounds, strict=True))
        print(f"{name}: up {up:.1f} s, down {down:.1f} s, {calls:.0f} calls")
    if len(found) > 1:
        mine, other = found.values()
        for part in Figures._fields:
            ratio = statistics.median(getattr(each, part) for each in mine) / statistics.median(
                getattr(each, part) for each in other
            )
            print(f"{part}: {ratio:.2f} of dask-cloudprovider's", flush=True)
        # Without the finalizers of its clusters, which ask an event loop that has ended.
        os._exit(0)


if __name__ == "__main__":
    main()
