"""What Dask's client promises of workers: functions run on them, plugins, files, and what they tell."""

from __future__ import annotations

import sys
import uuid

import distributed
import pytest
from distributed import Client, get_client, get_task_stream, wait
from promised_session import Session
from task_functions import Remember, add, name_of, remembered


def test_a_function_runs_on_all_workers(session: Session) -> None:
    assert {*session.client.run(name_of).values()} == {"gcam-7", "stitches"}


def test_a_function_runs_on_named_workers(session: Session) -> None:
    address = session.scheduler.aliases["gcam-7"]
    assert session.client.run(name_of, workers=[address]) == {address: "gcam-7"}


def test_a_function_runs_on_the_scheduler(session: Session) -> None:
    found = session.client.run_on_scheduler(lambda dask_scheduler: dask_scheduler.address)
    assert found == session.scheduler.address


def test_a_plugin_is_set_up_on_each_worker(session: Session) -> None:
    name = uuid.uuid4().hex
    session.client.register_plugin(Remember(name), name=name)
    assert {*session.client.run(remembered).values()} == {name}
    session.client.unregister_worker_plugin(name)
    assert {*session.client.run(remembered).values()} == {None}


def test_an_uploaded_module_can_be_imported_by_tasks(session: Session) -> None:
    module = f"uploaded_{uuid.uuid4().hex}"
    path = session.directory / f"{module}.py"
    path.write_text("def answer():\n    return 42\n")

    def use() -> int:
        return int(__import__(module).answer())

    session.client.upload_file(str(path))
    try:
        assert session.submit(use).result(timeout=60) == 42
    finally:
        sys.modules.pop(module, None)


def test_the_scheduler_tells_of_its_workers(session: Session) -> None:
    workers = session.client.scheduler_info(n_workers=-1)["workers"]
    assert {info["name"] for info in workers.values()} == {"gcam-7", "stitches"}
    assert sorted(session.client.nthreads().values()) == [1, 4]


def test_workers_can_be_waited_for(session: Session) -> None:
    session.client.wait_for_workers(2, timeout=60)
    with pytest.raises(TimeoutError):
        session.client.wait_for_workers(3, timeout=0.05)


def test_it_is_known_what_is_being_processed(session: Session) -> None:
    future = session.blocked()
    session.until(lambda: [future.key] in map(list, session.client.processing().values()))


def test_the_call_stack_of_a_running_task_is_known(session: Session) -> None:
    future = session.blocked()
    session.until(lambda: future.key in session.scheduler.tasks)
    session.until(lambda: session.client.call_stack(keys=[future.key]))


def test_logs_of_workers_and_scheduler_are_returned(session: Session) -> None:
    assert len(session.client.get_worker_logs()) == 2
    assert isinstance(session.client.get_scheduler_logs(), tuple)


def test_versions_are_compared(session: Session) -> None:
    versions = session.client.get_versions(check=True)
    assert len(versions["workers"]) == 2


def test_what_tasks_took_is_recorded(session: Session) -> None:
    with get_task_stream(session.client) as stream:
        future = session.submit(add, 1, pure=False)
        wait(future, timeout=60)
    assert future.key in {task["key"] for task in stream.data}


def test_metadata_are_kept_by_the_scheduler(session: Session) -> None:
    name = uuid.uuid4().hex
    session.client.set_metadata(name, 5)
    assert session.client.get_metadata(name) == 5


def test_what_a_task_prints_for_the_client_reaches_it(
    session: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    word = uuid.uuid4().hex
    printed = ""

    def has_come() -> bool:
        nonlocal printed
        printed += capsys.readouterr().out
        return word in printed

    session.submit(distributed.print, word).result(timeout=60)
    session.until(has_come)


def test_the_client_is_the_current_one(session: Session) -> None:
    assert Client.current() is session.client
    assert get_client() is session.client
    with type(session.client)(session.client.cluster, set_as_default=False) as other:
        assert Client.current() is session.client
        with other.as_current():
            assert Client.current() is other
