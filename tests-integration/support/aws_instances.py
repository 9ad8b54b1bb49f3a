"""EC2: instances as processes, and what AWS refuses of them. moto has what is said of them, but for their life."""

from __future__ import annotations

import base64
import contextlib
import json
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import aws_rules
from aws_boot import BED, LOG, LOG_OPTIONS, boot_script, write_programs
from aws_conditions import ACCOUNT, REGION, Conditions, container_environment
from aws_gateway import Answer, Call, RefusedError, Rule
from aws_identity import Identity
from aws_machines import Machines

_STATES = {"pending": "0", "running": "16", "shutting-down": "32", "terminated": "48"}


@dataclass
class Instance:
    """An instance.

    Parameters
    ----------
    id, address : str
        Its id, and its address.
    shown : mapping
        What moto says of it.
    asked : mapping
        The flat parameters of its RunInstances call.
    """

    id: str
    address: str
    shown: Mapping[str, Any]
    asked: Mapping[str, str]
    state: str = "pending"
    reason: tuple[str, str] | None = None
    ended: float | None = None
    notice_until: float | None = None
    shipped: int = 0
    tokens: set[str] = field(default_factory=set)
    waking: threading.Event = field(default_factory=threading.Event)

    @property
    def profile(self) -> str:
        """Return the name of its instance profile, empty if it has none."""
        name = self.asked.get("IamInstanceProfile.Name")
        return name or self.asked.get("IamInstanceProfile.Arn", "").rpartition("/")[2]

    @property
    def groups(self) -> set[str]:
        """Return the ids of its security groups."""
        return {each["GroupId"] for each in self.shown["SecurityGroups"]}


class Instances:
    """The instances of an account: see `aws_tasks.Tasks` for the parameters."""

    def __init__(
        self,
        conditions: Conditions,
        identity: Identity,
        machines: Machines,
        moto: Callable[[str], Any],
        pool: Executor,
        directory: Path,
    ) -> None:
        self.by_id: dict[str, Instance] = {}
        self.metadata_url = ""
        self._conditions, self._identity = conditions, identity
        self._machines, self._moto, self._pool = machines, moto, pool
        self._directory = directory
        self._lock = threading.RLock()
        self._tokens: dict[str, tuple[Mapping[str, str], Answer]] = {}
        self._programs = directory / "programs"
        write_programs(self._programs)

    @property
    def rules(self) -> Mapping[str, Rule]:
        """Return what answers the calls."""
        return {
            "RunInstances": self._run,
            "DescribeInstances": self._describe,
            "TerminateInstances": self._terminate,
            "GetConsoleOutput": self._console,
            "DescribeSpotInstanceRequests": self._describe_spot,
        }

    # -- What is done to them, other than by calls

    def end(self, instance: Instance, reason: tuple[str, str] | None, grace: float = 5.0) -> None:
        """End an instance for a reason of AWS, its code and text; None for that of whoever terminates it."""
        with self._lock:
            if instance.state in ("shutting-down", "terminated"):
                return
            was_up = instance.state == "running"
            instance.state, instance.reason = "shutting-down", instance.reason or reason
        instance.waking.set()
        if was_up:
            self._machines.stop(instance.id, grace, whole=True)
        else:
            self.exited(instance)

    def exited(self, instance: Instance) -> None:
        """Take note that nothing runs on an instance any more."""
        self._pool.submit(self._finish, instance)

    def uses(self, group: str) -> bool:
        """Return whether a network interface of an instance is in a security group."""
        linger = self._conditions.interfaces_linger
        return any(
            group in each.groups and (each.ended is None or time.monotonic() - each.ended < linger)
            for each in [*self.by_id.values()]
        )

    def renew(self) -> None:
        """Forget everything."""
        with self._lock:
            self.by_id.clear()
            self._tokens.clear()

    # -- Their life

    def _boot(self, instance: Instance) -> None:
        try:
            instance.waking.wait(self._conditions.provisioning)
            home = self._directory / instance.id
            home.mkdir()
            raw = base64.b64decode(instance.asked.get("UserData", ""))
            base = f"{self.metadata_url}{instance.id}"
            (home / "boot").write_text(boot_script(raw, home, base) if raw else "")
            images = {
                name: {"env": {**i.env}, "command": [*i.command], "is_missing": i.is_missing}
                for name, i in self._conditions.images.items()
            }
            env = container_environment(home)
            env["PATH"] = f"{self._programs}:{env['PATH']}"
            env[f"{BED}IMAGES"], env[f"{BED}ADDRESS"] = json.dumps(images), instance.address
            env[f"{BED}SELF"] = base
            # An instance whose user data have been run stays.
            whole = ["sh", "-c", 'sh "$1"; exec sleep infinity', "sh", str(home / "boot")]
            with self._lock:
                if instance.state == "pending":
                    log = self._log_file(instance)
                    self._machines.start(instance.id, whole, env, home, log)
                    instance.state = "running"
        except Exception as error:  # noqa: BLE001 - shown as AWS shows what is its own fault
            self._log_file(instance).write_text(f"{type(error).__name__}: {error}\n")
            text = f"Server.InternalError: {error}"
            self.end(instance, ("Server.InternalError", text))

    def _finish(self, instance: Instance) -> None:
        self._moto("ec2").terminate_instances(InstanceIds=[instance.id])
        with self._lock:
            instance.state, instance.ended = "terminated", time.monotonic()

    def _log_file(self, instance: Instance) -> Path:
        return self._directory / f"{instance.id}.log"

    # -- Calls

    def _run(self, call: Call, forward: Callable[[], Answer]) -> Answer:
        asked = call.params
        least, most = int(asked["MinCount"]), int(asked["MaxCount"])
        if not 1 <= least <= most:
            raise RefusedError(
                "InvalidParameterValue", f"MinCount {least} and MaxCount {most} do not fit"
            )
        self._check_run(call)
        token = asked.get("ClientToken")
        if token is not None and len(token) > aws_rules.TOKEN_LIMIT:
            raise RefusedError("InvalidParameterValue", "ClientToken: up to 64 ASCII characters")
        with self._lock:
            if token and token in self._tokens:
                before, answer = self._tokens[token]
                if before != asked:
                    text = "Arguments on this idempotent request are inconsistent with those of previous requests."
                    raise RefusedError("IdempotentParameterMismatch", text)
                return answer
            spare = asked.get("InstanceMarketOptions.MarketType") == "spot"
            given = self._conditions.take(most, least=least, spare=spare)
            if not given:
                zone = "We currently do not have sufficient capacity in the Availability Zone you requested."
                raise RefusedError("InsufficientInstanceCapacity", zone, 500)
            call.params = {**asked, "MinCount": f"{given}", "MaxCount": f"{given}"}
            try:
                answer = forward()
            finally:
                call.params = asked
            if answer.status >= 400:
                return answer
            made = self._made(answer, asked)
            self.by_id.update((each.id, each) for each in made)
            answer = self._told(answer)
            if token:
                self._tokens[token] = asked, answer
        for each in made:
            self._pool.submit(self._boot, each)
        return answer

    def _check_run(self, call: Call) -> None:
        asked = call.params
        data = base64.b64decode(asked.get("UserData", ""))
        if len(data) > aws_rules.USER_DATA_LIMIT:
            text = f"User data is limited to {aws_rules.USER_DATA_LIMIT} bytes"
            raise RefusedError("InvalidParameterValue", text)
        for i in range(1, 10):
            tags = [key for key in asked if key.startswith(f"TagSpecification.{i}.Tag.")]
            if sum(key.endswith(".Key") for key in tags) > aws_rules.TAGS_LIMIT:
                text = "The maximum number of tags on a resource is 50"
                raise RefusedError("TagLimitExceeded", text)
        groups = [
            *call.values("SecurityGroupId"),
            *call.values("NetworkInterface.1.SecurityGroupId"),
        ]
        if groups:
            ec2 = self._moto("ec2")
            try:
                ec2.describe_security_groups(GroupIds=groups)
            except ec2.exceptions.ClientError as error:
                problem = error.response["Error"]
                raise RefusedError(problem["Code"], problem["Message"]) from error
        profile = asked.get("IamInstanceProfile.Name", "")
        if profile and not self._identity.is_known(profile):
            text = f"Value ({profile}) for parameter iamInstanceProfile.name is invalid."
            raise RefusedError("InvalidParameterValue", text)

    def _made(self, answer: Answer, asked: Mapping[str, str]) -> list[Instance]:
        root = ElementTree.fromstring(answer.body)
        ids = [each.text for each in root.iter() if _name(each) == "instanceId"]
        found = self._moto("ec2").describe_instances(InstanceIds=ids)["Reservations"]
        return [
            Instance(i["InstanceId"], i["PrivateIpAddress"], i, asked)
            for reservation in found
            for i in reservation["Instances"]
        ]

    def _describe(self, _: Call, forward: Callable[[], Answer]) -> Answer:
        answer = forward()
        return self._told(answer) if answer.status < 400 else answer

    def _told(self, answer: Answer) -> Answer:
        """Return an answer with the states and reasons that we know."""
        root = ElementTree.fromstring(answer.body)
        for item in [each for each in root.iter() if _name(each) == "item"]:
            parts = {_name(each): each for each in item}
            known = self.by_id.get(
                (parts["instanceId"].text if "instanceId" in parts else "") or ""
            )
            if known is None or "instanceState" not in parts:
                continue
            for each in parts["instanceState"]:
                each.text = known.state if _name(each) == "name" else _STATES[known.state]
            if known.reason is not None and known.state != "running":
                self._give_reason(item, parts, known.reason)
        return answer._replace(body=ElementTree.tostring(root))

    def _give_reason(
        self,
        item: ElementTree.Element,
        parts: Mapping[str, ElementTree.Element],
        reason: tuple[str, str],
    ) -> None:
        if (old := parts.get("stateReason")) is not None:
            item.remove(old)
        found = ElementTree.SubElement(item, "stateReason")
        for name, text in zip(("code", "message"), reason, strict=True):
            ElementTree.SubElement(found, name).text = text

    def _terminate(self, call: Call, forward: Callable[[], Answer]) -> Answer:
        ids = call.values("InstanceId")
        known = [self.by_id[each] for each in ids if each in self.by_id]
        if len(known) < len(ids):
            return forward()  # an error, and nothing is terminated
        before = {each.id: each.state for each in known}
        for each in known:
            text = "Client.UserInitiatedShutdown: User initiated shutdown"
            self.end(each, ("Client.UserInitiatedShutdown", text))
        items = "".join(
            f"<item><instanceId>{each.id}</instanceId>{_state('currentState', each.state)}"
            f"{_state('previousState', before[each.id])}</item>"
            for each in known
        )
        xml = "<TerminateInstancesResponse xmlns='http://ec2.amazonaws.com/doc/2016-11-15/'>"
        xml += f"<requestId>1</requestId><instancesSet>{items}</instancesSet></TerminateInstancesResponse>"
        return Answer(200, {"Content-Type": "text/xml"}, xml.encode())

    def _describe_spot(self, call: Call, _: Callable[[], Answer]) -> Answer:
        """Answer with the requests whose instances will be taken: the only ones that can be asked for here."""
        asked = {key: text for key, text in call.params.items() if key.startswith("Filter.")}
        wanted = {"Filter.1.Name": "status-code", "Filter.1.Value.1": "marked-for-termination"}
        if asked != wanted:
            raise RefusedError("InvalidParameterValue", f"tests do not know these filters: {asked}")
        items = "".join(
            f"<item><spotInstanceRequestId>sir-{each.id[2:10]}</spotInstanceRequestId>"
            f"<instanceId>{each.id}</instanceId><state>active</state>"
            "<status><code>marked-for-termination</code></status></item>"
            for each in [*self.by_id.values()]
            if each.notice_until is not None and each.state == "running"
        )
        xml = "<DescribeSpotInstanceRequestsResponse xmlns='http://ec2.amazonaws.com/doc/2016-11-15/'>"
        xml += f"<requestId>1</requestId><spotInstanceRequestSet>{items}</spotInstanceRequestSet>"
        xml += "</DescribeSpotInstanceRequestsResponse>"
        return Answer(200, {"Content-Type": "text/xml"}, xml.encode())

    def _console(self, call: Call, forward: Callable[[], Answer]) -> Answer:
        known = self.by_id.get(call.params.get("InstanceId", ""))
        answer = forward()
        if known is None or answer.status >= 400:
            return answer
        file = self._log_file(known)
        output = base64.b64encode(file.read_bytes()[-65536:] if file.exists() else b"").decode()
        root = ElementTree.fromstring(answer.body)
        for each in root:
            if _name(each) == "output":
                each.text = output
        return answer._replace(body=ElementTree.tostring(root))

    # -- Metadata

    def metadata(self, verb: str, path: str, headers: Mapping[str, str]) -> Answer:
        """Answer an instance that asks for its metadata: version 2, and 1 unless the instance forbids it."""
        name, _, rest = path.partition("/")
        instance = self.by_id.get(name)
        if instance is None:
            return Answer(404, {}, b"")
        if rest.startswith("program/"):
            return self._serve_program(instance, rest.removeprefix("program/"))
        rest = rest.removeprefix("latest/").rstrip("/")
        if verb == "PUT" and rest == "api/token":
            if "x-aws-ec2-metadata-token-ttl-seconds" not in headers:
                return Answer(400, {}, b"")
            token = uuid.uuid4().hex
            instance.tokens.add(token)
            ttl = headers["x-aws-ec2-metadata-token-ttl-seconds"]
            head = {"Content-Type": "text/plain", "X-aws-ec2-metadata-token-ttl-seconds": ttl}
            return Answer(200, head, token.encode())
        required = instance.asked.get("MetadataOptions.HttpTokens") == "required"
        given = headers.get("x-aws-ec2-metadata-token")
        if given not in instance.tokens and (given or required):
            return Answer(401, {}, b"")
        text = self._fact(instance, rest) if verb == "GET" else None
        if text is None:
            return Answer(404, {}, b"")
        return Answer(200, {"Content-Type": "text/plain"}, text.encode())

    def _serve_program(self, instance: Instance, request: str) -> Answer:
        """Answer one of the programs of `aws_boot`."""
        if request == "end":
            text = "Client.InstanceInitiatedShutdown: Instance initiated shutdown"
            if instance.asked.get("InstanceInitiatedShutdownBehavior") == "terminate":
                self.end(instance, ("Client.InstanceInitiatedShutdown", text))
            return Answer(200, {}, b"")
        name = request.removeprefix("parameter")
        try:
            self._check(instance, "ssm:GetParameter", f"ssm:{REGION}:{ACCOUNT}:parameter{name}")
            found = self._moto("ssm").get_parameters(Names=[name], WithDecryption=True)
            if not found["Parameters"]:
                raise RefusedError("", f"ParameterNotFound: {name}")
        except RefusedError as refusal:
            return Answer(400, {}, refusal.text.encode())
        return Answer(200, {}, str(found["Parameters"][0]["Value"]).encode())

    def _check(self, instance: Instance, action: str, resource: str) -> None:
        role = self._identity.role_of(instance.profile) if instance.profile else ""
        self._identity.check(role, action, f"arn:aws:{resource}")

    def ship(self, instance: Instance) -> None:
        """Send CloudWatch what the instance's container has written since the last time."""
        home = self._directory / instance.id
        where = home / LOG_OPTIONS
        if not where.exists():
            return
        group, stream = json.loads(where.read_text("utf-8"))
        arn = f"logs:{REGION}:{ACCOUNT}:log-group:{group}:log-stream:{stream}"
        logs = self._moto("logs")
        with self._lock:
            data = (home / LOG).read_bytes()[instance.shipped :]
            lines = data[: data.rfind(b"\n") + 1].decode(errors="replace").splitlines()
            now = int(time.time() * 1000)
            events = [{"timestamp": now, "message": line or " "} for line in lines]
            with contextlib.suppress(
                RefusedError,  # it may not
                logs.exceptions.ResourceNotFoundException,  # the group is gone
            ):
                self._check(instance, "logs:PutLogEvents", arn)
                if not instance.shipped:
                    logs.create_log_stream(logGroupName=group, logStreamName=stream)
                if events:
                    logs.put_log_events(
                        logGroupName=group, logStreamName=stream, logEvents=events[-5000:]
                    )
                instance.shipped += data.rfind(b"\n") + 1

    def _fact(self, instance: Instance, path: str) -> str | None:
        shown = instance.shown
        zone = shown["Placement"]["AvailabilityZone"]
        facts = {
            "meta-data/instance-id": instance.id,
            "meta-data/ami-id": shown["ImageId"],
            "meta-data/instance-type": shown["InstanceType"],
            "meta-data/local-ipv4": instance.address,
            "meta-data/placement/availability-zone": zone,
            "meta-data/placement/region": zone[:-1],
            "dynamic/instance-identity/document": json.dumps(
                {"instanceId": instance.id, "region": zone[:-1], "availabilityZone": zone}
            ),
        }
        if instance.asked.get("MetadataOptions.InstanceMetadataTags") == "enabled":
            tags = {each["Key"]: each["Value"] for each in shown.get("Tags", ())}
            facts.update((f"meta-data/tags/instance/{key}", text) for key, text in tags.items())
        if instance.notice_until is not None:
            when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(instance.notice_until))
            facts["meta-data/spot/instance-action"] = json.dumps(
                {"action": "terminate", "time": when}
            )
        role = self._identity.role_of(instance.profile) if instance.profile else ""
        if role:
            facts["meta-data/iam/security-credentials"] = role
            facts[f"meta-data/iam/security-credentials/{role}"] = json.dumps(
                {
                    "Code": "Success",
                    "Type": "AWS-HMAC",
                    "AccessKeyId": "ASIATESTS",
                    "SecretAccessKey": "secret",
                    "Token": "token",
                    "LastUpdated": "2026-01-01T00:00:00Z",
                    "Expiration": "2099-01-01T00:00:00Z",
                }
            )
        return facts.get(path)


def _name(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2]


def _state(name: str, state: str) -> str:
    return f"<{name}><code>{_STATES[state]}</code><name>{state}</name></{name}>"
