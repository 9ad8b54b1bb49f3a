"""What all errors have in common."""

from __future__ import annotations

import pickle

import pytest

from scalable import errors
from scalable.cluster.port import Explanation, Leftover, Reason
from scalable.errors import ScalableError
from scalable.manifest.issues import ValidationIssue, ValidationReport

ISSUE = ValidationIssue("tasks.a", "no such component", "E_COMPONENT")
WHY = Explanation(Reason.IMAGE, "no such image", log_tail="404")
EXAMPLES = {
    "UnknownHomeError": ("~nobody-at-all/data",),
    "ClusterClosedError": ("c",),
    "AmbiguousScaleError": ("scale(n)", "scale_groups"),
    "GroupFailedError": ("gcam", WHY),
    "GroupTimeoutError": ("gcam", 2, 1, 3.0, "Priority"),
    "IncompleteClusterError": ("mine", "LocalCluster", ["groups", "scale_groups"]),
    "LaunchError": ("no machine", WHY),
    "LaunchRefusedError": ("no such partition", WHY),
    "DaskConfigurationError": (["distributed.scheduler.preload"], "no module named preload"),
    "LeftoverError": ("c", [Leftover("job", "7_1", "busy")]),
    "ManifestError": ([ISSUE],),
    "ManifestParseError": ([ISSUE],),
    "ManifestSchemaError": ([ISSUE],),
    "ProviderConflictError": ("slurm", ["a 1", "b 2"]),
    "ProviderNotSetUpError": ("slurm", "squeue is not on PATH", "use a login node"),
    "QuarantinedProviderError": ("slurm", "a", "no module", "reinstall it"),
    "MissingKeysError": ("tls://10.0.0.1:8786",),
    "SchedulerLostError": ("c", WHY),
    "SchedulerStartError": ("c", WHY),
    "SlotsExceededError": ("gcam", 3, 2),
    "TagConflictError": (("gcam", "fair"),),
    "UnknownWorkerError": (("gcam-1",), {"fair": 1}),
    "UnknownProviderError": ("slrm", ["slurm"]),
    "UnknownTagError": ("gcan", ["gcam"]),
    "UnknownTargetError": ("hcp", ["hpc"]),
    "UnknownTaskError": ("runn", ["run"]),
    "ValidationFailedError": (ValidationReport((ISSUE,)),),
    "VersionMismatchError": ("the scheduler has Python 3.12, the client 3.11", "an image"),
    "WalltimeError": ("gcam", "gcam-7_1", 3600.0),
    "ActorLostError": ("Counter-1f", "gcam-1", "it crashed with SIGSEGV", WHY),
    "WorkerDiedError": ("work-1f", (("gcam-1", "it crashed with SIGSEGV"),), WHY),
    "NativeTimeoutError": (120.0,),
}
NAMES = [name for name in errors.__all__ if name.endswith("Error")]


@pytest.mark.parametrize("name", NAMES)
def test_a_pickled_error_is_the_same(name: str) -> None:
    error: ScalableError = getattr(errors, name)(*EXAMPLES.get(name, ("something is wrong",)))
    arrived = pickle.loads(pickle.dumps(error))
    assert type(arrived) is type(error)
    assert (str(arrived), vars(arrived)) == (str(error), vars(error))


@pytest.mark.parametrize("name", NAMES)
def test_every_error_is_in_the_tree(name: str) -> None:
    assert issubclass(getattr(errors, name), ScalableError)
    assert name in (errors.__doc__ or "")
