"""The ``scalable`` command.

Each subcommand is a module of its own. It imports what it needs when it runs, so that help is instant and commands
that only read a manifest do not import Dask.

==============  =================================================================================
`group`         ``scalable`` itself: its subcommands, and how errors end it
`options`       arguments and options that several commands share
`output`        what is printed: results on stdout, problems on stderr
`streams`       standard streams that are closed
`failures`      errors as lines on stderr and as an exit status
`init`          ``scalable init``, with the files of ``starter/``
`validate`      ``scalable validate``
`plan`          ``scalable plan``
`check`         ``scalable check``
`providers`     ``scalable providers``
`schema`        ``scalable schema``
`owned`         ``scalable ps`` and ``scalable reap``
`asking`        which targets these two ask for resources, and their answers
`prices`        ``scalable prices refresh``
`run`           ``scalable run``, with the modules below
`resume`        ``scalable resume``
`script`        running a workflow the way Python runs a script
`progress`      progress of groups and tasks, live on a terminal or as lines
`counting`      counting the scheduler's tasks
`status`        a group or the tasks as one line of text
`terminal`      an area at the bottom of a terminal
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
