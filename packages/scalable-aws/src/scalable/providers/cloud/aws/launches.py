"""Calls that start workers, none of which is made twice with another effect."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from scalable.cluster.port import Explanation, Reason
from scalable.errors import LaunchError, LaunchRefusedError
from scalable.providers.cloud.aws.api import AwsError
from scalable.providers.cloud.aws.refusals import explain_refusal, is_transient

if TYPE_CHECKING:
    from scalable.providers.cloud.aws.api import AwsApi
    from scalable.providers.cloud.aws.tasks import Request

__all__ = ["LaunchCalls", "Started", "launch_error"]


class Started(NamedTuple):
    """What a call has started.

    Parameters
    ----------
    names : sequence of str
        ARNs of tasks, or ids of instances.
    failure : mapping
        What ECS says of those that it has not started; may be empty.
    """

    names: Sequence[str]
    failure: Mapping[str, Any] = {}


class LaunchCalls:
    """Makes the calls of launches, each with a token by which AWS knows it if it is repeated.

    A call is made once, and not repeated here: a refusal of a second attempt would say nothing of a first one whose
    answer was lost. The engine repeats a launch instead, and calls that were answered are then not made again.

    Parameters
    ----------
    api : AwsApi
        AWS.
    """

    def __init__(self, api: AwsApi) -> None:
        self._api = api
        self._answers: defaultdict[str, dict[str, Started | AwsError]] = defaultdict(dict)
        """The answers to the calls of each launch, by token."""
        self._unclear: set[str] = set()
        """The tokens of calls that were made and not answered, so that they may have started something."""

    async def make(self, request_id: str, token: str, request: Request) -> Started | AwsError:
        """Return what a call has started, or the refusal by which it is known to have started nothing.

        Parameters
        ----------
        request_id : str
            The launch.
        token : str
            The call's token, which is its own.
        request : Request
            The call: RunTask or RunInstances.

        Raises
        ------
        AwsError, AwsUnreachableError, NativeTimeoutError
            It is not known what the call has started.
        """
        answers = self._answers[request_id]
        if token in answers:
            return answers[token]
        was_unclear = token in self._unclear
        self._unclear.add(token)
        answer: Started | AwsError
        try:
            answer = _started(await self._api.create(request, once=True))
        except AwsError as error:
            if not (_tells_of_all_attempts(error) if was_unclear else _starts_nothing(error)):
                raise
            answer = error
        self._unclear.discard(token)
        answers[token] = answer
        return answer

    def forget(self, request_id: str) -> None:
        """Forget a launch of which all calls were refused, and which the engine does not repeat."""
        self._answers.pop(request_id, None)


def _starts_nothing(error: AwsError) -> bool:
    """Return whether an attempt has started nothing."""
    # Capacity that is lacking is a server's error in EC2: InsufficientInstanceCapacity has status 500.
    return explain_refusal(error).reason is not Reason.NETWORK


def _tells_of_all_attempts(error: AwsError) -> bool:
    """Return whether AWS says this only where no earlier attempt with the same token has started anything that runs.

    It throttles, checks credentials and parameters before it looks for the token.
    """
    reason = explain_refusal(error).reason
    of_quota = reason is Reason.QUOTA and not is_transient(error)
    return of_quota or reason in (Reason.CAPACITY, Reason.EXITED)


def _started(answer: Mapping[str, Any]) -> Started:
    if "Instances" in answer:
        return Started([each["InstanceId"] for each in answer["Instances"]])
    failures = answer.get("failures") or [{}]
    return Started([each["taskArn"] for each in answer["tasks"]], failures[0])


def launch_error(tag: str, why: Explanation, lasting: bool) -> LaunchError:
    """Return the error of a launch of which nothing was started."""
    kind = LaunchRefusedError if lasting else LaunchError
    return kind(f"AWS starts no workers of {tag}: {why}", why)
