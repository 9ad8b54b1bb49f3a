from __future__ import annotations

import asyncio
import stat
from pathlib import Path

import pytest
from distributed import Scheduler, Security, rpc

from scalable.providers.tls import Credentials, make_credentials


def connect(scheduler: Credentials, client: Security) -> None:
    """Connect to a scheduler as a client with these keys, and get its identity."""

    async def connect() -> None:
        async with Scheduler(
            host="127.0.0.1",
            port=0,
            protocol="tls",
            dashboard=False,
            dashboard_address="127.0.0.1:0",
            security=scheduler.security(),
        ) as running:
            connection_args = client.get_connection_args("client")
            async with rpc(running.address, timeout=3, connection_args=connection_args) as way:
                assert (await way.identity())["id"] == running.id

    asyncio.run(connect())


def test_the_holder_of_the_keys_gets_in() -> None:
    credentials = make_credentials()
    connect(credentials, credentials.security())


def test_others_do_not_get_in_with_keys_of_their_own() -> None:
    with pytest.raises(OSError, match="before comm was established"):
        connect(make_credentials(), make_credentials().security())


def test_others_do_not_get_in_without_keys() -> None:
    with pytest.raises(TypeError, match="TLS"):
        connect(make_credentials(), Security())


def test_files_are_for_their_owner_only(tmp_path: Path) -> None:
    credentials = make_credentials()
    files = credentials.write(tmp_path / "tls")
    for path in map(Path, (files.ca_file, files.cert, files.key)):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "tls").stat().st_mode) == 0o700
    connect(credentials, files.security())
    with pytest.raises(FileExistsError):
        credentials.write(tmp_path / "tls")


def test_a_key_is_not_shown() -> None:
    credentials = make_credentials()
    assert credentials.key not in repr(credentials)
    assert credentials.key not in repr(credentials.security())
