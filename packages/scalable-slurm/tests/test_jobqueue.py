from __future__ import annotations

import subprocess
import sys

import dask.config

from scalable.providers.slurm.jobqueue import site_defaults


def test_side_effects_of_importing_dask_jobqueue_are_undone() -> None:
    code = """
import signal, threading
import dask, distributed
from scalable.errors import NotSupportedError
from scalable.providers.slurm.jobqueue import import_jobqueue
before, config = signal.getsignal(signal.SIGINT), set(dask.config.config)
messages = []
def off_the_main_thread():
    try:
        import_jobqueue()
    except NotSupportedError as error:
        messages.append(str(error))
thread = threading.Thread(target=off_the_main_thread)
thread.start(); thread.join()
assert "main thread" in messages[0], messages
import_jobqueue()
assert signal.getsignal(signal.SIGINT) is before
assert set(dask.config.config) - config <= {"jobqueue"}
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_settings_under_another_name_are_told_to_have_no_effect() -> None:
    """dask-jobqueue reads them for ``config_name="myhpc"``."""
    config = {"jobqueue": {"slurm": {"queue": "a"}, "pbs": {"queue": "b"}, "myhpc": {"queue": "c"}}}
    with dask.config.set(config):
        site = site_defaults()
    assert site.queue == "a"
    assert [note.path for note in site.notes] == ["jobqueue.myhpc"]
