"""What Google is asked for its prices, and what is made of its answers."""

from __future__ import annotations

import json
import threading
import urllib.parse
from collections.abc import Iterator, Sequence
from datetime import date
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from scalable.costing import HOURS_PER_MONTH
from scalable.errors import ProviderError
from scalable.planning import build_plan
from scalable.providers.base import RefreshedPrices, RefreshesPrices
from scalable.providers.cloud.gcp import GCPProvider
from scalable.providers.cloud.gcp.prices import PRICES
from scalable.testing.offline import spec_of

GCP = GCPProvider()
PATH = "/v1/services/6F81-5844-456A/skus"


def product(
    description: str,
    *nanos: int,
    usage: str = "OnDemand",
    unit: str = "h",
    regions: Sequence[str] = ("sa-east9",),
    currency: str = "USD",
    units: str = "0",
) -> dict[str, Any]:
    """Return a product as the API has it."""
    tiers = [
        {
            "startUsageAmount": n,
            "unitPrice": {"currencyCode": currency, "units": units, "nanos": each},
        }
        for n, each in enumerate(nanos)
    ]
    return {
        "name": "services/6F81-5844-456A/skus/0000-0000-0000",
        "description": description,
        "category": {
            "serviceDisplayName": "Compute Engine",
            "resourceFamily": "Compute",
            "resourceGroup": "CPU",
            "usageType": usage,
        },
        "serviceRegions": [*regions],
        "pricingInfo": [
            {"pricingExpression": {"usageUnit": unit, "displayQuantity": 1, "tieredRates": tiers}}
        ],
        "serviceProviderName": "Google",
    }


MACHINES = [
    product("N2 Instance Core running in Nowhere", 40_000_000),
    product("N2 Instance Ram running in Nowhere", 5_000_000, unit="GiBy.h"),
    product("Spot Preemptible N2 Instance Core running in Nowhere", 9, usage="Preemptible"),
    product("E2 Instance Core running in Nowhere", 30_000_000),
    product("E2 Instance Ram running in Nowhere", 4_000_000, unit="GiBy.h"),
    product("Compute optimized Core running in Nowhere", 50_000_000),
    product("N2 Sole Tenancy Instance Core running in Nowhere", 1),
    product("N2 Custom Extended Instance Ram running in Nowhere", 1, unit="GiBy.h"),
    product("Commitment v1: N2 Cpu in Nowhere for 1 Year", 1, usage="Commit1Yr"),
    product("N2 Instance Core running in Elsewhere", 1, regions=["elsewhere1"]),
]
OTHERS = [
    product("Nvidia L4 GPU running in Nowhere", 600_000_000, units="1"),
    product("Nvidia Tesla A100 80GB GPU running in Nowhere", 1),
    product("Balanced PD Capacity in Nowhere", 0, 150_000_000, unit="GiBy.mo"),
    product("Regional Balanced PD Capacity in Nowhere", 1, unit="GiBy.mo"),
]


class Catalogue:
    """The Cloud Billing Catalog API, as far as it is asked."""

    def __init__(self) -> None:
        self.pages: list[Any] = [{"skus": []}]
        self.refusal: tuple[int, str] | None = None
        self.queries: list[dict[str, str]] = []

    def tell(self, *pages: Sequence[dict[str, Any]]) -> None:
        """Have it answer these pages."""
        last = len(pages)
        tokens = [{"nextPageToken": str(n)} if n < last else {} for n in range(1, last + 1)]
        self.pages = [{"skus": [*page], **token} for page, token in zip(pages, tokens, strict=True)]

    def answer(self, url: str) -> tuple[int, Any]:
        """Return status and body of the answer to a request."""
        path, _, query = url.partition("?")
        asked = dict(urllib.parse.parse_qsl(query))
        if path != PATH or {*asked} - {"pageToken"} != {"currencyCode", "pageSize"}:
            return 404, {"error": {"message": f"unknown: {url}"}}
        self.queries.append(asked)
        if self.refusal is not None:
            status, message = self.refusal
            return status, {"error": {"code": status, "message": message}}
        return 200, self.pages[int(asked.get("pageToken", 0))]


@pytest.fixture
def catalogue(monkeypatch: pytest.MonkeyPatch) -> Iterator[Catalogue]:
    """Provide the API, which the provider reaches by the environment."""
    made = Catalogue()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, found = made.answer(self.path)
            body = json.dumps(found).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    monkeypatch.setenv("SCALABLE_GCE_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("NO_PROXY", "*")
    try:
        yield made
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def refresh(*options: str) -> RefreshedPrices:
    return GCP.refresh_prices([spec_of("gcp", each, "") for each in options])


def saved() -> dict[str, Decimal]:
    """Return the prices of the file, by unit."""
    return {unit: price.usd for (_, unit), price in PRICES.read().prices.refreshed.items()}


def test_it_has_the_ability() -> None:
    assert isinstance(GCP, RefreshesPrices)


def test_prices_of_what_a_run_can_use_are_saved(catalogue: Catalogue) -> None:
    catalogue.tell(MACHINES, OTHERS)
    refreshed = refresh("region: sa-east9")
    assert [each.get("pageToken") for each in catalogue.queries] == [None, "1"]
    assert refreshed.path == PRICES.path
    assert saved() == {
        "vCPU of n2": Decimal("0.04"),
        "GiB of n2": Decimal("0.005"),
        "vCPU of n2 (Spot)": Decimal("9E-9"),
        "vCPU of e2": Decimal("0.03"),
        "GiB of e2": Decimal("0.004"),
        "vCPU of c2": Decimal("0.05"),
        "nvidia-l4": Decimal("1.6"),
        "GB of pd-balanced": Decimal("0.15") / HOURS_PER_MONTH,
    }
    listed = {each.unit: each for each in refreshed.prices}
    assert listed["vCPU of n2"].as_of == date.today()
    assert listed["vCPU of n2d"].price is None


def test_a_plan_uses_them_with_their_source_and_day(catalogue: Catalogue) -> None:
    target = "zone: sa-east9-a\nmachine_type: n2-standard-4\nworkers: 3"
    limited = f"{target}\nlimits: {{max_hourly_cost: 3}}"
    assert not GCP.validate(spec_of("gcp", limited)).ok
    catalogue.tell(MACHINES, OTHERS)
    refresh("zone: sa-east9-a")
    assert GCP.validate(spec_of("gcp", limited)).ok
    cost = build_plan(spec_of("gcp", target, "gcam: {cpus: 4}"), GCP).cost
    assert cost is not None
    [workers] = [item for item in cost.items if item.unit == "n2-standard-4"]
    assert workers.unit_price == 4 * Decimal("0.04") + 16 * Decimal("0.005")
    assert (workers.source, workers.as_of) == ("Google's Cloud Billing Catalog API", date.today())
    assert not cost.unknown


def test_machines_with_gpus_have_a_price_once_their_parts_have(catalogue: Catalogue) -> None:
    g2 = [
        product("G2 Instance Core running in Nowhere", 20_000_000),
        product("G2 Instance Ram running in Nowhere", 3_000_000, unit="GiBy.h"),
    ]
    catalogue.tell([*MACHINES, *OTHERS, *g2])
    refresh("region: sa-east9")
    options = "region: sa-east9\nboot_image: projects/lab/global/images/driver\nworkers: 1"
    cost = build_plan(spec_of("gcp", options, "gcam: {gpus: 1, cpus: 4}"), GCP).cost
    assert cost is not None
    [workers] = [item for item in cost.items if item.unit == "g2-standard-4"]
    assert workers.unit_price == 4 * Decimal("0.02") + 16 * Decimal("0.003") + Decimal("1.6")


def test_what_is_ambiguous_or_for_something_else_is_unknown(catalogue: Catalogue) -> None:
    catalogue.tell(
        [
            product("E2 Instance Core running in Nowhere", 1),
            product("E2 Instance Core running in Nowhere and beyond", 2),
            product("E2 Instance Ram running in Nowhere", 3, unit="GiBy.mo"),
            product("N4 Instance Core running in Nowhere", 1, currency="EUR"),
            product("N4 Instance Ram running in Nowhere", 1, unit="By"),
            product("C3 Instance Core running in Nowhere", 1, 2),
            product("C4 Instance Core running in Nowhere", 0),
            product("Spot Preemptible C4 Instance Core running in Nowhere", 1),
            product("T2D AMD Instance Core running in Nowhere", 1, usage="Preemptible"),
        ]
    )
    refresh("region: sa-east9")
    assert saved() == {"GiB of e2": Decimal("3E-9") / HOURS_PER_MONTH}


def test_a_region_that_is_not_listed_is_an_error_and_nothing_is_saved(
    catalogue: Catalogue,
) -> None:
    catalogue.tell(MACHINES)
    with pytest.raises(ProviderError, match="no prices for 'mars-north1'; is there such a region"):
        refresh("region: sa-east9", "region: mars-north1")
    assert not PRICES.path.exists()


def test_without_a_region_nobody_is_asked(catalogue: Catalogue) -> None:
    with pytest.raises(ProviderError, match="no region is known; name one by --region"):
        refresh("")
    assert catalogue.queries == []


@pytest.mark.parametrize(
    "skus",
    [[1], [{}], "text", [{**MACHINES[0], "pricingInfo": []}], [{**MACHINES[0], "category": None}]],
)
def test_an_answer_of_another_form_is_one_line(catalogue: Catalogue, skus: Any) -> None:
    catalogue.pages = [{"skus": skus}]
    with pytest.raises(ProviderError, match="Google lists its prices in a form") as caught:
        refresh("region: sa-east9")
    assert "\n" not in str(caught.value)
    assert not PRICES.path.exists()


def test_a_refusal_is_one_line_with_what_to_do(catalogue: Catalogue) -> None:
    catalogue.refusal = (
        403,
        "Cloud Billing API has not been used in project 1 before or it is disabled.",
    )
    with pytest.raises(ProviderError, match="gcloud services enable cloudbilling") as caught:
        refresh("region: sa-east9")
    assert "\n" not in str(caught.value)
    assert len(catalogue.queries) == 1


def test_an_answer_that_is_late_is_asked_for_again(catalogue: Catalogue) -> None:
    catalogue.refusal = (503, "The service is unavailable.")
    heal = threading.Timer(1.0, lambda: setattr(catalogue, "refusal", None))
    heal.start()
    catalogue.tell(MACHINES)
    refresh("region: sa-east9")
    heal.join()
    assert len(catalogue.queries) > 1
    assert "vCPU of n2" in saved()
