"""How jobs are recognized as those of a run, of a group and of a launch: by their name and their comment.

Pure functions.
"""

from __future__ import annotations

__all__ = ["format_comment", "job_name", "parse_comment"]


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
    >>> parse_comment("nightly build")
    {}
    """
    owner, _, facts = comment.partition(" ")
    if owner != "scalable":
        return {}
    return dict(fact.split("=", 1) for fact in facts.split() if "=" in fact)
