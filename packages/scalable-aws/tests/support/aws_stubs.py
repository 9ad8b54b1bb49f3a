"""An `AwsApi` whose calls botocore checks against its own model of AWS, and which are answered as a test says."""

from __future__ import annotations

from typing import Any

import boto3
from botocore.stub import Stubber

from scalable.providers.cloud.aws.api import AwsApi


class StubbedApi(AwsApi):
    """Answers the calls that a test expects, service by service in their order, and fails for any other."""

    def __init__(self) -> None:
        super().__init__("test", "us-east-1")
        self.__dict__["_session"] = boto3.Session("AKID", "secret", region_name="us-east-1")
        self._stubs: dict[str, tuple[Any, Stubber]] = {}

    def _stub(self, service: str) -> tuple[Any, Stubber]:
        if service not in self._stubs:
            make: Any = self.__dict__["_session"].client
            client = make(service, region_name="us-east-1")
            stubber = Stubber(client)
            stubber.activate()
            self._stubs[service] = client, stubber
        return self._stubs[service]

    def _client(self, service: str, region: str, *, once: bool = False) -> Any:
        return self._stub(service)[0]

    def answer(self, service: str, method: str, answer: dict[str, Any], params: Any = None) -> None:
        """Expect a call, and answer it."""
        self._stub(service)[1].add_response(method, answer, params)

    def refuse(
        self, service: str, method: str, code: str, text: str = "", status: int = 400
    ) -> None:
        """Expect a call, and refuse it."""
        self._stub(service)[1].add_client_error(method, code, text, status)

    def check(self) -> None:
        """Fail if a call that was expected has not been made."""
        for _, stubber in self._stubs.values():
            stubber.assert_no_pending_responses()
