from __future__ import annotations

import json
from hashlib import sha256
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from scalable.manifest.lock import canonical_json, manifest_lock
from scalable.manifest.parser import parse_manifest

values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
documents = st.dictionaries(st.text(), values, max_size=4)


@given(documents)
def test_the_canonical_form_has_the_same_content(document: dict[str, Any]) -> None:
    assert json.loads(canonical_json(document)) == document


@given(documents.flatmap(lambda document: st.permutations(list(document.items()))))
def test_the_order_of_keys_does_not_count(items: list[tuple[str, Any]]) -> None:
    assert canonical_json(dict(items)) == canonical_json(dict(sorted(items)))


def test_the_lock_is_the_hash_of_the_canonical_form() -> None:
    document = {"version": 1, "project": {"name": "größe"}}
    text = '{"project":{"name":"größe"},"version":1}'
    assert manifest_lock(document) == sha256(text.encode()).hexdigest()


LAYOUTS = [
    "version: 1\nproject: {name: x}\ncomponents: {a: {cpus: 2}}\n",
    "components:\n  a:\n    cpus: 2   # two\nproject:\n  name: 'x'\nversion: 1\n",
    '{"version": 1, "project": {"name": "x"}, "components": {"a": {"cpus": 0x2}}}',
]


def test_layout_does_not_count() -> None:
    assert len({manifest_lock(parse_manifest(text).raw) for text in LAYOUTS}) == 1


def test_the_environment_does_not_count_but_the_overlay_does() -> None:
    text = """
version: 1
project: {name: x}
components: {a: {image: "${IMAGE}"}}
targets: {plain: {provider: p}, large: {provider: p, overlay: large}}
overlays: {large: {components: {a: {cpus: 3}}}}
"""

    def lock(image: str, target: str) -> str:
        return manifest_lock(parse_manifest(text, env={"IMAGE": image}, target_name=target).raw)

    assert lock("one", "plain") == lock("two", "plain")
    assert lock("one", "plain") != lock("one", "large")
