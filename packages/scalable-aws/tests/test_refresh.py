"""What AWS is asked for its prices, and what is made of its answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date
from decimal import Decimal
from typing import Any

import boto3
import pytest
from botocore.exceptions import EndpointConnectionError
from botocore.stub import Stubber

from scalable.errors import ProviderError, ProviderNotSetUpError
from scalable.providers.base import RefreshedPrices, RefreshesPrices
from scalable.providers.cloud.aws import AWSBatchProvider
from scalable.providers.cloud.aws.prices import ADDRESS, GB, PRICES, VCPU, VOLUME_GB
from scalable.testing.offline import spec_of

AWS = AWSBatchProvider()
SOURCE = "AWS's Price List API"


def row(usage: str, *dimensions: tuple[str, str], currency: str = "USD", **attributes: str) -> str:
    """Return a product as the API has it: JSON in a string, here with the dimensions (unit, price)."""
    sku, term = "QWERTY12345", "QWERTY12345.JRTCKXETXF"
    terms = {
        f"{term}.{n}": {
            "unit": unit,
            "endRange": "Inf",
            "description": f"{price} per {usage}",
            "appliesTo": [],
            "rateCode": f"{term}.{n}",
            "beginRange": "0",
            "pricePerUnit": {currency: price},
        }
        for n, (unit, price) in enumerate(dimensions)
    }
    reserved = {
        "priceDimensions": {
            "R": {"unit": "Hrs", "pricePerUnit": {"USD": "0.0100000000"}, "rateCode": "R"}
        },
        "sku": sku,
        "termAttributes": {"LeaseContractLength": "1yr", "PurchaseOption": "No Upfront"},
    }
    product = {
        "product": {
            "productFamily": "Compute",
            "attributes": {"regionCode": "sa-east-1", "usagetype": usage, **attributes},
            "sku": sku,
        },
        "serviceCode": "AmazonECS",
        "terms": {
            "OnDemand": {
                term: {
                    "priceDimensions": terms,
                    "sku": sku,
                    "effectiveDate": "2026-11-01T00:00:00Z",
                    "offerTermCode": "JRTCKXETXF",
                    "termAttributes": {},
                }
            },
            "Reserved": {f"{sku}.R": reserved},
        },
        "version": "20261120214501",
        "publicationDate": "2026-11-20T21:45:01Z",
    }
    return json.dumps(product)


FARGATE = [
    row("SAE1-Fargate-vCPU-Hours:perCPU", ("hours", "0.0696000000")),
    row("SAE1-Fargate-GB-Hours", ("hours", "0.0076000000")),
    row("SAE1-Fargate-ARM-vCPU-Hours:perCPU", ("hours", "0.0557000000")),
    row("SAE1-Fargate-ARM-GB-Hours", ("hours", "0.0061200000")),
    row("SAE1-Fargate-Windows-vCPU-Hours:perCPU", ("hours", "0.0900000000")),
    row("SAE1-SpotUsage:Fargate-vCPU-Hours:perCPU", ("hours", "0.0200000000")),
    row("SAE1-Fargate-EphemeralStorage-GB-Hours", ("GB-Hours", "0.0002000000")),
]
MACHINES = [
    row("SAE1-BoxUsage:c6i.large", ("Hrs", "0.1310000000"), instanceType="c6i.large"),
    row("SAE1-BoxUsage:p5.48xlarge", ("Hrs", "98.3200000000"), instanceType="p5.48xlarge"),
    row("SAE1-BoxUsage:x9.large", ("Hrs", "1.0000000000"), instanceType="x9.large"),
    row("SAE1-UnusedBox:m6i.large", ("Hrs", "0.1530000000"), instanceType="m6i.large"),
]
VOLUMES = [
    row("SAE1-EBS:VolumeUsage.gp3", ("GB-Mo", "0.1520000000")),
    row("SAE1-EBS:VolumeP-IOPS.gp3", ("IOPS-Mo", "0.0095000000")),
]
ADDRESSES = [
    row("SAE1-PublicIPv4:InUseAddress", ("Hrs", "0.0000000000"), ("Hrs", "0.0050000000")),
    row("SAE1-PublicIPv4:IdleAddress", ("Hrs", "0.0060000000")),
]


def filters(region: str, **wanted: str) -> list[dict[str, str]]:
    every = {"regionCode": region, **wanted}
    return [{"Type": "TERM_MATCH", "Field": f, "Value": v} for f, v in every.items()]


def questions(region: str) -> list[tuple[str, list[dict[str, str]]]]:
    linux = {
        "operatingSystem": "Linux",
        "tenancy": "Shared",
        "preInstalledSw": "NA",
        "capacitystatus": "Used",
        "marketoption": "OnDemand",
    }
    return [
        ("AmazonECS", filters(region, productFamily="Compute")),
        ("AmazonEC2", filters(region, **linux)),
        ("AmazonEC2", filters(region, productFamily="Storage", volumeApiName="gp3")),
        ("AmazonVPC", filters(region, group="VPCPublicIPv4Address")),
    ]


Answers = Sequence[Sequence[Sequence[str]]]
"""For each question, its pages of rows."""


class Pricing:
    """AWS's Price List API, as far as it is told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.client = boto3.Session().client("pricing", region_name="us-east-1")
        self.stub = Stubber(self.client)
        self.stub.activate()

        def client(_: boto3.Session, service: str, region_name: str, **__: object) -> Any:
            assert (service, region_name) == ("pricing", "us-east-1")
            return self.client

        monkeypatch.setattr(boto3.Session, "client", client)

    def tell(self, region: str, answers: Answers) -> None:
        for (service, wanted), pages in zip(questions(region), answers, strict=True):
            token: dict[str, str] = {}
            for n, rows in enumerate(pages, 1):
                more = {"NextToken": f"page {n}"} if n < len(pages) else {}
                answer = {"FormatVersion": "aws_v1", "PriceList": [*rows], **more}
                asked: Mapping[str, Any] = {"ServiceCode": service, "Filters": wanted, **token}
                self.stub.add_response("get_products", answer, asked)
                token = more


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials that are nobody's, and a region."""
    for name in ("AWS_PROFILE", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": "nothing",
        "AWS_DEFAULT_REGION": "sa-east-1",
        "AWS_CONFIG_FILE": "/nonexistent/config",
        "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent/credentials",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def pricing(account: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pricing]:
    made = Pricing(monkeypatch)
    yield made
    made.stub.assert_no_pending_responses()


def refresh(*options: str) -> RefreshedPrices:
    return AWS.refresh_prices([spec_of("aws", each, "") for each in options or ("",)])


def test_it_has_the_ability() -> None:
    assert isinstance(AWS, RefreshesPrices)


def test_prices_of_what_a_run_can_use_are_saved(pricing: Pricing) -> None:
    pricing.tell("sa-east-1", [[FARGATE[:2], FARGATE[2:]], [MACHINES], [VOLUMES], [ADDRESSES]])
    refreshed = refresh()
    assert refreshed.path == PRICES.path
    saved = PRICES.read().prices.refreshed
    assert {key: price.usd for key, price in saved.items()} == {
        ("sa-east-1", VCPU): Decimal("0.0696"),
        ("sa-east-1", GB): Decimal("0.0076"),
        ("sa-east-1", "c6i.large"): Decimal("0.131"),
        ("sa-east-1", VOLUME_GB): Decimal("0.152") / 730,
        ("sa-east-1", ADDRESS): Decimal("0.005"),
    }
    assert {price.source for price in saved.values()} == {SOURCE}
    assert {price.as_of for price in saved.values()} <= {date.today()}
    listed = {each.unit: each for each in refreshed.prices}
    assert (listed["c6i.large"].price, listed["c6i.large"].as_of) == (
        Decimal("0.131"),
        date.today(),
    )
    assert listed["m6i.large"].price is None


def test_types_that_targets_name_are_priced_too(pricing: Pricing) -> None:
    pricing.tell("sa-east-1", [[FARGATE], [MACHINES], [VOLUMES], [ADDRESSES]])
    refresh("cluster_type: ec2\ninstance_type: p5.48xlarge\nscheduler_instance_type: x9.large")
    saved = PRICES.read().prices.refreshed
    assert saved["sa-east-1", "p5.48xlarge"].usd == Decimal("98.32")
    assert saved["sa-east-1", "x9.large"].usd == 1


def test_each_region_is_asked_about_once(pricing: Pricing) -> None:
    for region in ("eu-west-1", "sa-east-1"):
        pricing.tell(region, [[FARGATE], [[]], [[]], [[]]])
    refreshed = refresh("region: eu-west-1", "", "region: eu-west-1\ncluster_type: ec2")
    assert {each.place for each in refreshed.prices} == {"eu-west-1", "sa-east-1"}


def test_what_is_ambiguous_or_in_another_currency_is_unknown(pricing: Pricing) -> None:
    fargate = [
        row("Fargate-vCPU-Hours:perCPU", ("hours", "0.1")),
        row("USE1-Fargate-vCPU-Hours:perCPU", ("hours", "0.2")),
        row("Fargate-GB-Hours", ("hours", "0.3")),
        row("USE1-Fargate-GB-Hours", ("hours", "0.3000000000")),
    ]
    volumes = [row("EBS:VolumeUsage.gp3", ("GB-Mo", "0.6"), currency="CNY")]
    addresses = [row("PublicIPv4:InUseAddress", ("Addresses", "0.005"))]
    pricing.tell("sa-east-1", [[fargate], [[]], [volumes], [addresses]])
    refresh()
    saved = PRICES.read().prices.refreshed
    assert {key: price.usd for key, price in saved.items()} == {("sa-east-1", GB): Decimal("0.3")}


def test_reserved_offers_alone_are_no_price(pricing: Pricing) -> None:
    product = json.loads(MACHINES[0])
    del product["terms"]["OnDemand"]
    pricing.tell("sa-east-1", [[FARGATE], [[json.dumps(product)]], [[]], [[]]])
    refresh()
    assert ("sa-east-1", "c6i.large") not in PRICES.read().prices.refreshed


def test_a_region_without_prices_is_an_error_and_nothing_is_saved(pricing: Pricing) -> None:
    pricing.tell("eu-west-1", [[FARGATE], [MACHINES], [VOLUMES], [ADDRESSES]])
    pricing.tell("xx-nowhere-1", [[[]], [[]], [[]], [[]]])
    with pytest.raises(ProviderError, match="no prices for 'xx-nowhere-1'; is there such a region"):
        refresh("region: eu-west-1", "region: xx-nowhere-1")
    assert not PRICES.path.exists()


@pytest.mark.parametrize("answer", ["no JSON", "[]", "{}", '{"product": {"attributes": null}}'])
def test_an_answer_of_another_form_is_an_error(pricing: Pricing, answer: str) -> None:
    pricing.tell("sa-east-1", [[[answer]], [[]], [[]], [[]]])
    with pytest.raises(ProviderError, match="AWS lists prices of sa-east-1 in a form") as caught:
        refresh()
    assert "\n" not in str(caught.value)
    assert not PRICES.path.exists()


@pytest.mark.parametrize(
    ("code", "text", "expected"),
    [
        (
            "AccessDeniedException",
            "User: arn:aws:iam::1:user/me is not authorized to perform: pricing:GetProducts",
            "pricing:GetProducts; ask for this permission",
        ),
        ("ExpiredTokenException", "The security token has expired", "renew your credentials"),
        ("ThrottlingException", "Rate exceeded", "Rate exceeded"),
    ],
)
def test_what_aws_refuses_is_one_line(
    pricing: Pricing, code: str, text: str, expected: str
) -> None:
    pricing.stub.add_client_error("get_products", code, text)
    with pytest.raises(ProviderError, match=expected) as caught:
        refresh()
    assert str(caught.value).startswith(f"AWS does not tell its prices: GetProducts: {code}")
    assert "\n" not in str(caught.value)
    assert not PRICES.path.exists()


def test_aws_that_is_not_reached_is_one_line(pricing: Pricing) -> None:
    def unreachable(**_: object) -> None:
        raise EndpointConnectionError(endpoint_url="https://api.pricing.us-east-1.amazonaws.com/")

    pricing.stub.deactivate()
    pricing.client.meta.events.register("before-call.pricing.GetProducts", unreachable)
    with pytest.raises(ProviderError, match=r"api\.pricing\.us-east-1") as caught:
        refresh()
    assert "\n" not in str(caught.value)


def without_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")


def without_a_region(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_DEFAULT_REGION")


@pytest.mark.parametrize(
    ("without", "expected"),
    [(without_credentials, "no credentials were found"), (without_a_region, "no region is set")],
)
def test_a_machine_that_is_not_set_up_is_one_line(
    account: None,
    monkeypatch: pytest.MonkeyPatch,
    without: Callable[[pytest.MonkeyPatch], None],
    expected: str,
) -> None:
    without(monkeypatch)
    with pytest.raises(ProviderNotSetUpError, match=expected) as caught:
        refresh()
    assert "\n" not in str(caught.value)
