"""The ``scalable`` command.

Each subcommand is a module of its own. It imports what it needs when it runs, so that help is instant and commands
that only read a manifest do not import Dask.

==============  =================================================================================
`group`         ``scalable`` itself: its subcommands, and how errors end it
`options`       arguments and options that several commands share
`output`        what is printed: results on stdout, problems on stderr
`streams`       standard streams that are closed
`failures`      errors as lines on stderr and as an exit status
`workflow`      the script and its arguments, from a command line
`preparing`     what precedes a run: its plan, and all that can be refused before anything is started
`running`       a run: its session offered to a workflow, closed and recorded
`endings`       what is shown of the end of a run
`init`          ``scalable init``, with the files of ``starter/``
`validate`      ``scalable validate``
`schema`        ``scalable schema``
`providers`     ``scalable providers``
`prices`        ``scalable prices``
`check`         ``scalable check``
`plan`          ``scalable plan``
`saved_plan`    plans in files: what a run must still match, and how two differ
`simulate`      ``scalable plan --simulate``
`run`           ``scalable run``
`script`        running a workflow the way Python runs a script
`inside`        ``scalable run --in-cluster``
`resume`        ``scalable resume``
`runs`          ``scalable runs``
`logs`          ``scalable logs``
`report`        ``scalable report``
`results`       ``scalable results``
`up`            ``scalable up``
`managed`       ``scalable attach``, ``scalable scale`` and ``scalable down``
`owned`         ``scalable ps`` and ``scalable reap``
`asking`        which targets these two ask for resources, and their answers
`standing`      which of these resources belong to runs that live
==============  =================================================================================
"""

import os
import sys

try:
    from scalable.cli.group import main
except KeyboardInterrupt:
    # The command is only about to begin. Where somebody else imports it, it is theirs to end.
    if sys.argv[0] != "-m" and os.path.basename(sys.argv[0]) != "scalable":  # noqa: PTH119 - pathlib takes as long
        raise
    os.write(2, b"error: interrupted\n")
    sys.exit(130)

__all__ = ["main"]
