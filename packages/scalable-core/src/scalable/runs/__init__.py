"""Records of runs: what ran, where, with which versions, how it ended, and what became of its tasks and workers.

A run has a directory ``.scalable/runs/<id>/`` in the current directory. The variable ``SCALABLE_RUNS_DIR`` names
another directory than ``.scalable/runs``. Only their owner can read them. Records show ``${VAR}`` in the place of each
value that the manifest has from the environment.

==============  =================================================================================
`records`       ``record.json``: the run, its plan, its end; finding and reading records
`shape`         what a record must be like to be read
`life`          whether a run lives, here or on another machine
`tally`         what became of the tasks
`counting`      what the scheduler has counted of them
`plugins`       what counts them on the scheduler
`packages`      the versions of what a workflow imports
`cost`          what a run has cost
`figures`       what the rows of a record amount to
`report`        a run as a page of HTML
`recorder`      ``events.jsonl``, ``tasks.jsonl`` and ``workers.jsonl``, written as the run goes
==============  =================================================================================
"""

from scalable.runs.life import RunState, run_state
from scalable.runs.records import (
    RECORDS_DIRECTORY,
    RunRecord,
    event_as_json,
    find_records,
    installed_versions,
    mark_removed,
    read_open_record,
    read_record,
    read_rows,
    recorded_spec,
    records_directory,
)

__all__ = [
    "RECORDS_DIRECTORY",
    "RunRecord",
    "RunState",
    "event_as_json",
    "find_records",
    "installed_versions",
    "mark_removed",
    "read_open_record",
    "read_record",
    "read_rows",
    "recorded_spec",
    "records_directory",
    "run_state",
]
