"""Names and tags of what a run creates. Pure functions.

All names follow from that of the run, so that whoever knows the run finds everything that belongs to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from scalable.providers.labels import dns_label, owner_label

__all__ = [
    "COMPONENT",
    "OWNER",
    "REQUEST",
    "RUN",
    "WORKERS",
    "Run",
    "family",
    "key_parameter",
    "log_group",
    "lower_tags",
    "owner_tag",
    "parameter_path",
    "profile_name",
    "resource_name",
    "role_name",
    "run_of",
    "run_prefix",
    "upper_tags",
]

RUN = "scalable-run"
"""Tag: the run."""
OWNER = "scalable-owner"
"""Tag: the user who started it."""
COMPONENT = "scalable-component"
"""Tag of a worker: its component."""
REQUEST = "scalable-request"
"""Tag of a worker: the launch that it answers."""

WORKERS = "scalable-workers"
"""Tag of an ECS cluster whose run has its workers on EC2 instances."""

_PREFIX = "scalable-"
_MAX_PREFIX = 20
"""With it, the longest name, that of the role, stays below the 64 characters that IAM allows."""


@dataclass(frozen=True)
class Run:
    """A run, for the names and the tags of its resources.

    Parameters
    ----------
    name : str
        Its name.
    owner : str
        The user who started it.
    tags : mapping of str to str
        Further tags of everything that it creates.
    """

    name: str
    owner: str
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def all_tags(self) -> dict[str, str]:
        """The tags of everything that it creates. Ours take precedence, because `scalable reap` relies on them."""
        return {**self.tags, RUN: self.name, OWNER: owner_tag(self.owner)}


def owner_tag(owner: str) -> str:
    r"""Return a user's name as the value of a tag.

    Examples
    --------
    >>> owner_tag("anna.b"), owner_tag("LAB\\anna")
    ('anna.b', 'LAB_anna-025a042c')
    """
    return owner_label(owner, r"[^\w .:/=+@-]", 256)


def run_prefix(target: str) -> str:
    """Return the beginning of a run's name, from its target's name.

    Examples
    --------
    >>> run_prefix("AWS_us-east-1"), run_prefix("a-target-with-a-long-name")
    ('aws-us-east-1', 'a-target-with-a-long')
    """
    return dns_label(dns_label(target)[:_MAX_PREFIX])


def resource_name(run: str) -> str:
    """Return the name of a run's ECS cluster and of its security group.

    Examples
    --------
    >>> resource_name("aws-1f00ba"), run_of(resource_name("aws-1f00ba"))
    ('scalable-aws-1f00ba', 'aws-1f00ba')
    """
    return _PREFIX + run


def run_of(resource: str) -> str | None:
    """Return the run to which a name belongs; None if it is none of ours."""
    return resource.removeprefix(_PREFIX) if resource.startswith(_PREFIX) else None


def role_name(run: str) -> str:
    """Return the name of a run's role: with it, Fargate pulls images, writes logs and reads the key."""
    return resource_name(run) + "-execution"


def profile_name(run: str) -> str:
    """Return the name of a run's instance profile, and of the role in it."""
    return resource_name(run) + "-instance"


def log_group(run: str) -> str:
    """Return the name of a run's log group."""
    return f"/scalable/{run}"


def parameter_path(run: str) -> str:
    """Return the path of a run's parameters in the Systems Manager."""
    return f"/scalable/{run}/"


def key_parameter(run: str) -> str:
    """Return the name of the parameter with a run's private key."""
    return parameter_path(run) + "tls-key"


def family(run: str, part: str) -> str:
    """Return the family of a task definition: of a component, or of the scheduler.

    No component can be called as the scheduler's part: the names of components begin with a letter.

    Examples
    --------
    >>> family("aws-1f00ba", "GCAM_core")
    'scalable-aws-1f00ba-GCAM_core'
    """
    return f"{resource_name(run)}-{part}"


def lower_tags(tags: Mapping[str, str]) -> list[dict[str, str]]:
    """Return tags as ECS has them.

    Examples
    --------
    >>> lower_tags({"a": "b"}), upper_tags({"a": "b"})
    ([{'key': 'a', 'value': 'b'}], [{'Key': 'a', 'Value': 'b'}])
    """
    return [{"key": key, "value": value} for key, value in tags.items()]


def upper_tags(tags: Mapping[str, str]) -> list[dict[str, str]]:
    """Return tags as most other services have them."""
    return [{"Key": key, "Value": value} for key, value in tags.items()]
