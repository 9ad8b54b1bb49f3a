"""The end of the log of a task or an instance."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from scalable.errors import NativeTimeoutError
from scalable.providers.cloud.aws.api import AwsError, AwsUnreachableError
from scalable.providers.cloud.aws.names import log_group

if TYPE_CHECKING:
    from scalable.providers.cloud.aws.api import AwsApi

__all__ = ["MAX_LINES", "console_tail", "log_tail"]

_LINES = 20
MAX_LINES = 10_000
"""Lines that AWS returns at a time, at most."""

_PAUSES = (0.5, 1.0, 2.0)
"""Seconds between the attempts to read a log, which reaches CloudWatch some seconds after it was written."""


async def log_tail(
    api: AwsApi,
    run: str,
    stream: str,
    *,
    lines: int = _LINES,
    pauses: Sequence[float] = _PAUSES,
) -> str:
    """Return the last lines of a log; empty if there is none, or it cannot be read.

    Parameters
    ----------
    api : AwsApi
        AWS.
    run, stream : str
        The run, and the log stream of a task or instance.
    lines : int
        Maximum number of lines, of which AWS returns no more than 1 MB.
    pauses : sequence of float
        Seconds between attempts.
    """
    for pause in (*pauses, None):
        try:
            answer = await api.call(
                "logs",
                "GetLogEvents",
                logGroupName=log_group(run),
                logStreamName=stream,
                limit=lines,
                startFromHead=False,
            )
        except AwsError as error:
            if error.code != "ResourceNotFoundException":
                return ""  # the log is only an addition to what is known of a task
        except (AwsUnreachableError, NativeTimeoutError):
            return ""
        else:
            if answer["events"]:
                return "\n".join(event["message"].rstrip() for event in answer["events"])
        if pause is not None:
            await asyncio.sleep(pause)
    return ""


async def console_tail(api: AwsApi, instance: str) -> str:
    """Return the last lines of an instance's console: why its container has not started, and so has no log."""
    try:
        answer = await api.call("ec2", "GetConsoleOutput", InstanceId=instance)
    except (AwsError, AwsUnreachableError, NativeTimeoutError):
        return ""  # as above
    return "\n".join(answer.get("Output", "").splitlines()[-_LINES:])
