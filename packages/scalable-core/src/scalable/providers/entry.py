"""The program that starts Dask's worker or scheduler; `scalable.providers.worker.server_command` passes it as text.

It runs where none of our packages may be: the standard library and distributed only. Compared with ``dask worker``,
files of the current directory replace no module, and a preload that fails ends the process with its traceback.
"""

import gc
import os
import sys


class NoCollection:
    """Collects no garbage while a block imports modules, and none of these afterwards.

    There is none, and looking for it takes an eighth of the time of importing Dask.
    """

    def __enter__(self) -> None:
        gc.disable()

    def __exit__(self, *_: object) -> None:
        gc.freeze()
        gc.enable()


def leave_out_current_directory() -> list[str]:
    """Remove the entries of ``sys.path`` that are the current directory, and return them.

    ``-P`` adds none, but an empty part of PYTHONPATH is one, as in ``PYTHONPATH=$PYTHONPATH:/opt/model``.
    """
    try:
        current = os.getcwd()
    except FileNotFoundError:
        return []
    found = [entry for entry in sys.path if os.path.abspath(entry) == current]
    sys.path[:] = [entry for entry in sys.path if entry not in found]
    return found


def main() -> None:
    """Run the server that the first argument names, ``worker`` or ``scheduler``, with the other arguments."""
    # All that Dask tries to import is imported, or known to be missing, before files of the user's are found.
    last = leave_out_current_directory()
    server = sys.argv.pop(1)
    with NoCollection():
        if server == "worker":
            from distributed.cli.dask_worker import main as run
        else:
            from distributed.cli.dask_scheduler import main as run
        import traceback

        import dask.config
        from distributed.preloading import PreloadManager

    sys.path += last
    preloading, started = "", False

    async def start(preloads: PreloadManager) -> None:
        # As Dask's, which logs an exception and goes on.
        nonlocal preloading, started
        for preload in preloads:
            preloading = f"preload {preload.name}: "
            await preload.start()
        started = True

    setattr(PreloadManager, "start", start)  # noqa: B010 - a method, as mypy sees it
    try:
        run(prog_name=f"dask {server}", standalone_mode=False)
    except (
        BaseException
    ) as error:  # a preload may call sys.exit, perhaps with a status that says that all is well
        if started:
            raise
        traceback.print_exc()
        while error.__cause__ is not None:
            error = error.__cause__
        # The last line, because the end of the log is what is shown.
        what = f"{type(error).__name__}: {error}"
        if configured := dask.config.get(f"distributed.{server}.preload", None):
            what += f"; Dask's configuration here sets distributed.{server}.preload: {configured}"
        print(f"the {server} could not start: {preloading}{what}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
