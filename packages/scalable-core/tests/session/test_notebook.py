"""What a notebook shows of a session, in the kernel of one."""

from __future__ import annotations

import queue
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

pytest.importorskip("ipykernel", reason="needs ipykernel and jupyter_client")
jupyter_client = pytest.importorskip("jupyter_client")

TIMEOUT = 90.0


class Notebook:
    """A front end as Jupyter's protocol describes it: what is shown under an id is replaced wherever it is shown."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.shown: dict[str, str] = {}
        """What can be seen under each id."""
        self.texts: dict[str, str] = {}
        """The same in plain text."""
        self.updates: list[float] = []
        """When something was replaced."""

    def run(self, code: str) -> tuple[list[str], str]:
        """Run a cell; return the ids of what it has shown, and what it has printed."""
        asked = self._client.execute(code)
        ids, printed = [], ""
        deadline = time.monotonic() + TIMEOUT
        while time.monotonic() < deadline:
            message = self._receive(deadline - time.monotonic())
            if message is None or message["parent_header"].get("msg_id") != asked:
                continue
            content = message["content"]
            match message["msg_type"]:
                case "display_data":
                    ids.append(content["transient"]["display_id"])
                case "stream":
                    printed += content["text"]
                case "execute_result":
                    printed += content["data"]["text/plain"]
                case "error":
                    raise AssertionError("\n".join(content["traceback"]))
                case "status" if content["execution_state"] == "idle":
                    return ids, printed
        raise AssertionError(f"the cell does not end: {code}")

    def eventually(self, condition: Callable[[], bool]) -> bool:
        """Return whether a condition becomes true by what the kernel sends, without another cell."""
        deadline = time.monotonic() + TIMEOUT
        while not condition():
            if self._receive(deadline - time.monotonic()) is None:
                return False
        return True

    def is_quiet(self, seconds: float) -> bool:
        """Return whether nothing is replaced for so long."""
        before = len(self.updates)
        deadline = time.monotonic() + seconds
        while self._receive(deadline - time.monotonic()) is not None:
            pass
        return len(self.updates) == before

    def _receive(self, timeout: float) -> Any:
        try:
            message = self._client.get_iopub_msg(timeout=max(0.0, timeout))
        except queue.Empty:
            return None
        content = message["content"]
        if message["msg_type"] in ("display_data", "update_display_data"):
            name = content["transient"]["display_id"]
            assert message["msg_type"] == "display_data" or name in self.shown
            self.shown[name] = content["data"]["text/html"]
            self.texts[name] = content["data"]["text/plain"]
            if message["msg_type"] == "update_display_data":
                self.updates.append(time.monotonic())
        return message


def is_alive(pid: int) -> bool:
    """Return whether a process has not ended; one of this process that nobody has waited for has."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def notebook(
    project: Path, environment: dict[str, str], tmp_path: Path
) -> Iterator[Callable[[], Notebook]]:
    """Start the kernel of a notebook in the project's directory."""
    places = {
        name: str(tmp_path / name.lower())
        for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR")
    }
    manager = jupyter_client.KernelManager(transport="ipc", ip=str(tmp_path / "k"))
    manager.kernel_spec_manager  # noqa: B018 - made before the command below is used
    command = [sys.executable, "-Xfrozen_modules=off", "-m", "ipykernel_launcher"]
    manager._kernel_spec = jupyter_client.kernelspec.KernelSpec(
        argv=[*command, "-f", "{connection_file}"], display_name="", language="python"
    )
    client: Any = None

    def start() -> Notebook:
        nonlocal client
        env = {**environment, **places, "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
        manager.start_kernel(cwd=str(project), env=env)
        client = manager.client()
        client.start_channels()
        client.wait_for_ready(timeout=TIMEOUT)
        return Notebook(client)

    yield start
    if client is not None:
        client.stop_channels()
    manager.shutdown_kernel(now=True)
    manager.cleanup_resources()


OPEN = """\
from scalable.session import ScalableSession
session = ScalableSession.from_yaml()
"""


def test_a_session_is_kept_up_to_date_where_it_is_shown(
    notebook: Callable[[], Notebook],
) -> None:
    cells = notebook()
    # Before the start, and by the start itself.
    (new,), _ = cells.run(f"{OPEN}session")
    assert "on demo, new" in cells.shown[new]
    (started,), _ = cells.run("client = session.start()")
    assert started == new, "all of them are one"
    assert cells.eventually(lambda: "<td>gcam</td><td>1 of 1</td>" in cells.shown[new])

    # Without another cell: it is only looked at.
    cells.run("session.scale({'gcam': 2})")
    assert cells.eventually(lambda: "<td>gcam</td><td>2 of 2</td>" in cells.shown[new])
    cells.run("futures = client.map(abs, range(7), tag='fair')")
    assert cells.eventually(lambda: "7/7 tasks done" in cells.shown[new])

    # The client and the cluster, too.
    (client, cluster), _ = cells.run("display(client)\nsession.cluster")
    assert len({new, client, cluster}) == 3
    cells.run("session.scale({'gcam': 1})")
    one = "<td>gcam</td><td>1 of 1</td>"
    assert cells.eventually(
        lambda: all(one in cells.shown[each] for each in (new, client, cluster))
    )

    cells.run("session.close()")
    assert cells.eventually(lambda: "on demo, closed" in cells.shown[new])
    assert "7/7 tasks done" in cells.shown[new]
    assert "closed" in cells.texts[new]
    assert cells.eventually(lambda: "on demo, closed" in cells.shown[client])
    # The cluster is closed a little later; then there is nothing left to show.
    assert cells.eventually(lambda: "<td>closed</td>" in cells.shown[cluster])
    assert cells.is_quiet(3.0)
    _, threads = cells.run("import threading; print([t.name for t in threading.enumerate()])")
    assert "scalable-notebook" not in threads

    # Nothing is replaced more often than once a second, of three things.
    hurried = [b - a for a, b in zip(cells.updates, cells.updates[3:], strict=False) if b - a < 0.5]
    assert hurried == []


def test_progress_in_a_cell_can_be_left_out(notebook: Callable[[], Notebook]) -> None:
    cells = notebook()
    shown, _ = cells.run(
        "from scalable.session import ScalableSession\n"
        "session = ScalableSession.from_yaml(progress=False)\n"
        "client = session.start()\n"
    )
    assert shown == []
    assert cells.run("session.close()") == ([], "")


def test_a_kernel_with_a_session_that_is_shown_ends(
    notebook: Callable[[], Notebook], eventually: Callable[[Callable[[], bool]], bool]
) -> None:
    cells = notebook()
    _, pid = cells.run(f"import os\n{OPEN}client = session.start()\nprint(os.getpid())")
    cells._client.shutdown()
    assert eventually(lambda: not is_alive(int(pid)))


def test_outside_of_a_notebook_nothing_of_it_is_imported(
    project: Path, environment: dict[str, str]
) -> None:
    code = f"import sys\n{OPEN}session.start(); session.close()\nprint('IPython' in sys.modules)"
    ran = subprocess.run(
        [sys.executable, "-c", code],
        cwd=project,
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=True,
    )
    assert ran.stdout == "False\n"


def test_a_terminal_of_ipython_shows_plain_text(
    project: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "IPython", "--simple-prompt", "--no-banner"],
        input=f"{OPEN}\nsession\n",
        cwd=project,
        env={**environment, "IPYTHONDIR": str(tmp_path / "ipython")},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=True,
    )
    assert "<ScalableSession on 'demo', new>" in ran.stdout
    assert "Traceback" not in ran.stdout + ran.stderr
