"""What Dask's client promises of actors."""

from __future__ import annotations

from typing import Any

import pytest
from promised_session import Session
from task_functions import Account


def test_an_actor_keeps_its_state(session: Session) -> None:
    actor: Any = session.submit(Account, actor=True).result(timeout=60)
    assert [actor.deposit(5).result(), actor.deposit(5).result()] == [5, 10]
    assert actor.total == 10


def test_actors_are_never_shared(session: Session) -> None:
    actors: list[Any] = [session.submit(Account, actor=True).result(timeout=60) for _ in range(2)]
    assert [actor.deposit(1).result() for actor in actors] == [1, 1]


def test_an_error_of_an_actor_is_raised_by_its_call(session: Session) -> None:
    actor: Any = session.submit(Account, actor=True).result(timeout=60)
    with pytest.raises(ValueError, match="-1"):
        actor.deposit(-1).result()
    assert actor.deposit(1).result() == 1


def test_an_actor_is_an_argument_of_tasks(session: Session) -> None:
    def use(account: Any) -> int:
        return int(account.deposit(3).result())

    actor: Any = session.submit(Account, actor=True).result(timeout=60)
    assert session.submit(use, actor).result(timeout=60) == 3
    assert actor.total == 3
