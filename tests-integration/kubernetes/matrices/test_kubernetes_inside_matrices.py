"""The requirements of every provider, with the client inside of the cluster."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from kubernetes_site import INSIDE, KubernetesSite

from scalable.testing.conformance import ProviderConformance

SUITE = Path(__file__).parents[1] / "test_kubernetes_conformance.py"
REQUIREMENTS = [name for name in dir(ProviderConformance) if name.startswith("test_")]


def test_the_conformance_suite_inside_of_the_cluster(site: KubernetesSite) -> None:
    # As in a pod: https://kubernetes.io/docs/tutorials/services/connect-applications-service/#environment-variables
    there = {"KUBERNETES_SERVICE_HOST": "10.77.0.1", "KUBERNETES_SERVICE_PORT": "443"}
    done = subprocess.run(
        [
            *(*site.enter(inside=True), sys.executable, "-m", "pytest", "-p", "no:cacheprovider"),
            *(f"{SUITE}::TestConformance::{name}" for name in REQUIREMENTS),
        ],
        env={**os.environ, INSIDE: "1", **there},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr
