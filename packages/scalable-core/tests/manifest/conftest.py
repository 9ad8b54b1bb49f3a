"""What the tests of the manifest share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from textwrap import dedent
from typing import Any

import pytest

from scalable.manifest.errors import ManifestError
from scalable.manifest.parser import parse_manifest

Problems = Callable[..., list[str]]


@pytest.fixture(scope="session")
def problems() -> Problems:
    """Parse what is wrong, and give every problem as ``line:column code path: message``."""

    def problems_of(
        document: str | bytes | Mapping[str, Any],
        env: Mapping[str, str] | None = None,
        **names: str,
    ) -> list[str]:
        text = dedent(document) if isinstance(document, str) else document
        with pytest.raises(ManifestError) as caught:
            parse_manifest(text, env=env or {}, source="m", **names)
        issues = [str(issue) for issue in caught.value.issues]
        assert str(caught.value).splitlines() == issues, "each problem is one line"
        return [issue.removeprefix("m:") for issue in issues]

    return problems_of
