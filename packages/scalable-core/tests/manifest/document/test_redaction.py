"""A value is found in what other programs make of it: the spellings are theirs, not ours."""

from __future__ import annotations

import base64
import csv
import html
import io
import json
import pprint
import re
import shlex
import textwrap
import time
from collections.abc import Callable
from urllib.parse import quote

import pytest
import yaml

from scalable.manifest.document.redaction import redact

KEY = "\n".join(f"MIIEvgIBADANBgkqhkiG9w0BAQEFAASCBK{n}wggSkAgEAAo/+" for n in range(4))
PEM = f"-----BEGIN PRIVATE KEY-----\n{KEY}\n-----END PRIVATE KEY-----\n"
SECRETS = [
    pytest.param("hunter2hunter2", id="plain"),
    pytest.param('p@ss/w\'rd "x"+99', id="quotes"),
    pytest.param("back\\slash$dollar%per{cent}&<tag>", id="punctuation"),
    pytest.param("pässwörd-€-🌍nic", id="unicode"),
    pytest.param("the  secret\tof\r\ntwo lines", id="white space"),
    pytest.param(PEM, id="lines"),
    pytest.param("hunter2hunter2\n", id="with the end of its line"),
]


def _csv(value: str) -> str:
    written = io.StringIO()
    csv.writer(written).writerow(["a", value])
    return written.getvalue()


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize(
    "spell",
    [
        pytest.param(lambda value: value.strip(), id="stripped"),
        pytest.param(lambda value: " ".join(value.split()), id="one line"),
        pytest.param(lambda value: textwrap.indent(value, "    "), id="indented"),
        pytest.param(lambda value: repr(value.encode()), id="bytes"),
        pytest.param(lambda value: ascii({"of": [value]}), id="ascii"),
        pytest.param(lambda value: pprint.pformat({"of": value}, width=20), id="pprint"),
        pytest.param(lambda value: json.dumps(json.dumps({"of": value})), id="json in json"),
        pytest.param(lambda value: repr(json.dumps({"of": value})), id="json in repr"),
        pytest.param(lambda value: json.dumps(value).replace("/", "\\/"), id="json of PHP"),
        pytest.param(lambda value: yaml.safe_dump({"of": value}, width=20), id="yaml"),
        pytest.param(
            lambda value: yaml.safe_dump({"of": value}, default_style='"', width=20),
            id="yaml in quotes",
        ),
        pytest.param(
            lambda value: yaml.safe_dump({"of": value}, default_style="'", allow_unicode=True),
            id="yaml in single quotes",
        ),
        pytest.param(
            lambda value: re.sub("%..", lambda code: code[0].lower(), quote(value, safe="")),
            id="url in lower case",
        ),
        pytest.param(lambda value: quote(quote(value, safe=""), safe=""), id="url in a url"),
        pytest.param(lambda value: f"https://user:{quote(value)}@host/", id="url"),
        pytest.param(html.escape, id="html"),
        pytest.param(lambda value: html.escape(html.escape(value)), id="html in html"),
        pytest.param(lambda value: value.encode("ascii", "xmlcharrefreplace").decode(), id="xml"),
        pytest.param(lambda value: shlex.join(["login", value]), id="shell"),
        pytest.param(_csv, id="csv"),
        pytest.param(lambda value: base64.b64encode(value.encode()).decode(), id="base 64"),
        pytest.param(
            lambda value: base64.b64encode(f"user:{value}".encode()).decode(),
            id="basic authentication",
        ),
        pytest.param(
            lambda value: base64.urlsafe_b64encode(f"as:{value}.".encode()).decode(),
            id="base 64 of URLs",
        ),
    ],
)
def test_a_value_is_found_however_it_is_spelled(spell: Callable[[str], str], secret: str) -> None:
    shown = redact(f"it says {spell(secret)} and ends", {"TOKEN": secret})
    assert "${TOKEN}" in shown
    assert len(shown) < 60  # nearly nothing else is left


@pytest.mark.parametrize(
    ("value", "text", "shown"),
    [
        ("postgresql://anna:hu%2Fnter@db/x", "hu/nter, hu%2Fnter", "${V}, ${V}"),
        ("https://ghp_0123456789abcdef@github.com/x", "ghp_0123456789abcdef", "${V}"),
        (
            "https://host/x?sv=2021&sig=Abc%2Bdef",
            "GET /x?sv=2021&sig=Abc%2Bdef",
            "GET /x?sv=2021&sig=${V}",
        ),
        ("host=db password=hunter2 user=anna", "no hunter2 for anna", "no ${V} for anna"),
        ("AccountName=me;AccountKey=q83vEjRW+/zQ==;X=y", "me: q83vEjRW+/zQ==", "me: ${V}"),
        (json.dumps({"type": "account", "private_key": PEM}), KEY.split("\n")[2], "${V}"),
        (PEM, f"  > {KEY.split()[0]}", "  > ${V}"),
        # What is no secret by itself stays.
        (
            "https://anna:hunter2@host/data",
            "https://host/data of anna",
            "https://host/data of anna",
        ),
        (json.dumps({"type": "account", "private_key": PEM}), "account", "account"),
        ("abc\n", "abc", "abc"),
    ],
)
def test_what_of_a_value_is_a_secret_is_found_alone(value: str, text: str, shown: str) -> None:
    assert redact(text, {"V": value}) == shown


def test_values_that_contain_one_another_are_each_found() -> None:
    variables = {"A": "abcd", "B": "abcdefgh", "C": "B}x${A", "D": "TOKEN"}
    assert redact("abcd abcdefgh abcdef B}x${A TOKEN", variables) == "${A} ${B} ${A}ef ${C} ${D}"


def test_a_value_goes_before_a_part_of_another_one() -> None:
    variables = {"A": "https://u:hunter2@host/", "B": "hunter2"}
    assert (
        redact("hunter2", variables)
        == redact("hunter2", dict([*variables.items()][::-1]))
        == "${B}"
    )


@pytest.mark.parametrize(
    "text", ["\\" * 10**6, ("a" + "\\" * 99) * 10**4, "a" + " " * 10**6, "=-'" * 300_000]
)
def test_no_text_takes_long(text: str) -> None:
    variables = {"A": "\\\\ a\\'\\\\\\ \\x", "B": "==--''" * 8, "C": "$$$%%%" * 8, "D": "a  b \n c"}
    before = time.process_time()
    redact(text, variables)
    assert time.process_time() - before < 20
