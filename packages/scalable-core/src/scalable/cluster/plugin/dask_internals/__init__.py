"""What the plugin uses of distributed beyond its public interface.

Each name is listed in docs/extending/dask.md and has a test of its own against the installed version. Hooks, handlers
and documented attributes of distributed's state classes are used where they are needed. The names are imported from
here; they are in modules by whom they are about:

=============  ======================================================================
`scheduler`    workers and tasks, as the scheduler has them
`worker`       tasks, as a worker has them
`clients`      the clients that tasks get on a worker
`connections`  when connections send, and what they keep and raise
`functions`    copies of functions, and what servers or the other modules share
=============  ======================================================================
"""

from scalable.cluster.plugin.dask_internals.clients import (
    forget_worker_and_clients,
    replace_worker_client,
)
from scalable.cluster.plugin.dask_internals.connections import (
    ContainedCalls,
    adjust_batches,
    close_connection,
    contain_answers,
    contain_requests,
    keep_no_log,
    lift_send_timeout,
    lift_worker_send_timeout,
    read_unreadable_tasks,
    receive_alone,
    replace_batched_send,
    send_sooner,
)
from scalable.cluster.plugin.dask_internals.functions import (
    hide_from_tracebacks,
    leave_directory,
)
from scalable.cluster.plugin.dask_internals.scheduler import (
    Hold,
    Stealing,
    barrier_of_shuffle,
    cancel_all,
    fail_task,
    find_worker,
    free_key,
    interrupt_retirement,
    release_tasks,
    remove_worker,
    report_failed_graph,
    results_of_dead_worker,
    run_alone,
    runs_alone,
    runs_here,
    send_to_clients,
    send_worker_status,
    set_scheduler_side_status,
    set_worker_status,
    suspect,
    take_over_failures,
    tasks_of_dead_worker,
    turn_off_worker_ttl,
)
from scalable.cluster.plugin.dask_internals.worker import (
    actor_executor,
    drop_unusable_traceback,
    executing_tasks,
    failure_answer,
    has_seceded,
    not_executed,
    raised_by,
    replace_execute,
    replace_raised,
    replaced_run_spec,
    return_resources,
    run_id,
    seconds_alone,
    task_failure,
    task_that_raises,
    try_to_send,
    unstarted_tasks,
    untransferable_error,
    was_taken_back,
)

__all__ = [
    "ContainedCalls",
    "Hold",
    "Stealing",
    "actor_executor",
    "adjust_batches",
    "barrier_of_shuffle",
    "cancel_all",
    "close_connection",
    "contain_answers",
    "contain_requests",
    "drop_unusable_traceback",
    "executing_tasks",
    "fail_task",
    "failure_answer",
    "find_worker",
    "forget_worker_and_clients",
    "free_key",
    "has_seceded",
    "hide_from_tracebacks",
    "interrupt_retirement",
    "keep_no_log",
    "leave_directory",
    "lift_send_timeout",
    "lift_worker_send_timeout",
    "not_executed",
    "raised_by",
    "read_unreadable_tasks",
    "receive_alone",
    "release_tasks",
    "remove_worker",
    "replace_batched_send",
    "replace_execute",
    "replace_raised",
    "replace_worker_client",
    "replaced_run_spec",
    "report_failed_graph",
    "results_of_dead_worker",
    "return_resources",
    "run_alone",
    "run_id",
    "runs_alone",
    "runs_here",
    "seconds_alone",
    "send_sooner",
    "send_to_clients",
    "send_worker_status",
    "set_scheduler_side_status",
    "set_worker_status",
    "suspect",
    "take_over_failures",
    "task_failure",
    "task_that_raises",
    "tasks_of_dead_worker",
    "try_to_send",
    "turn_off_worker_ttl",
    "unstarted_tasks",
    "untransferable_error",
    "was_taken_back",
]
