from __future__ import annotations

import re
import uuid

from scalable.cluster.ledger import new_run_id
from scalable.providers.cloud.gcp.names import owner_value, run_prefix, scheduler_name, worker_names


def test_the_longest_names_are_those_of_machines() -> None:
    run = new_run_id(run_prefix("T" * 40))
    names = [*worker_names(run, "Component_" * 4, uuid.uuid4().hex, 1000), scheduler_name(run)]
    assert all(re.fullmatch("[a-z]([a-z0-9-]{0,61}[a-z0-9])?", name) for name in names)
    assert len({*names}) == 1001


def test_thousands_of_launches_have_names_of_their_own() -> None:
    # Of two components whose names are the same as far as a machine's name has them.
    names = {
        name
        for tag in ("component-of-land-a", "component-of-land-b")
        for _ in range(5000)
        for name in worker_names("gcp-1f00ba", tag, uuid.uuid4().hex, 1)
    }
    assert len(names) == 10_000


def test_the_label_of_a_user_is_that_of_no_other() -> None:
    users = ["anna_b", "anna.b", "Anna_B", "anna b", "Анна", "Инна", "a" * 63, "a" * 64]
    labels = [owner_value(user) for user in users]
    assert len({*labels}) == len(users)
    assert all(re.fullmatch("[a-z0-9_-]{0,63}", label) for label in labels)
    assert labels[0] == "anna_b"
