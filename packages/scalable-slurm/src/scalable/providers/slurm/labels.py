"""How jobs are recognized as those of a run, of a group and of a launch.

By their name, which all jobs of a run share, and by their comment. Sites have plugins that rewrite either, or drop it:
the job script has the comment as a line of its own. Pure functions.
"""

from __future__ import annotations

import re

__all__ = [
    "format_comment",
    "job_name",
    "label_line",
    "may_be_ours",
    "parse_comment",
    "parse_script",
]


def job_name(run: str) -> str:
    """Return the name of all jobs of a run.

    Examples
    --------
    >>> job_name("nightly-1f00")
    'scalable-nightly-1f00'
    """
    return f"scalable-{run}"


def format_comment(run: str, tag: str, request_id: str, workers: int = 1, room: int = 1) -> str:
    """Return the comment that identifies a job: its run, its group, and the launch that submitted it.

    Where a job has room for several workers, it also says how many the whole array begins with.

    Examples
    --------
    >>> format_comment("r1", "gcam", "f00")
    'scalable run=r1 tag=gcam request=f00'
    """
    several = f" workers={workers} room={room}" if room > 1 else ""
    return f"scalable run={run} tag={tag} request={request_id}{several}"


def parse_comment(comment: str) -> dict[str, str]:
    """Return the fields of such a comment; empty for a foreign job's comment.

    Examples
    --------
    >>> parse_comment("scalable run=r1 tag=gcam request=f00")["tag"]
    'gcam'
    >>> parse_comment("nightly build"), parse_comment("scalable test n=5")
    ({}, {})
    """
    owner, _, text = comment.partition(" ")
    facts = dict(fact.split("=", 1) for fact in text.split() if "=" in fact)
    return facts if owner == "scalable" and {"run", "tag", "request"} <= facts.keys() else {}


def label_line(comment: str) -> str:
    """Return a comment as a line of a job script.

    Examples
    --------
    >>> label_line("scalable run=r1 tag=gcam request=f00")
    '# scalable run=r1 tag=gcam request=f00'
    """
    return f"# {comment}"


def parse_script(script: str) -> dict[str, str]:
    r"""Return the fields of the comment that a job script has as a line; empty for a foreign job's script.

    Examples
    --------
    >>> parse_script("#!/bin/bash\n# scalable run=r1 tag=gcam request=f00\nmodule load gcc")["request"]
    'f00'
    >>> parse_script("#!/bin/bash\n# scalable model\n")
    {}
    """
    line = re.search(r"^# (scalable run=\S.*)$", script, re.MULTILINE)
    return parse_comment(line[1]) if line else {}


def may_be_ours(name: str, comment: str) -> bool:
    """Return whether a job may be one of ours whose comment was rewritten, so that its script is worth a look.

    Examples
    --------
    >>> may_be_ours("scalable-run-1f00", "climate"), may_be_ours("climate_scalable-run-1f00", "")
    (True, True)
    >>> may_be_ours("scalable-run-1f00", "scalable run=run-1f00 tag=gcam request=f00"), may_be_ours("wrf", "")
    (False, False)
    """
    return job_name("") in name and not parse_comment(comment)
