"""A session: one manifest, one target, one cluster.

==============  =================================================================================
`session`       `ScalableSession`: from a manifest to a client, and everything removed again
`facts`         `SessionFacts`: what a session tells of itself
`teardown`      `ClosingSession`: how it ends, and what signals do meanwhile
`building`      what is checked of a provider's `build_cluster`
`scaling`       plans whose counts were changed
`shown`         how it is shown, in a notebook and elsewhere
`own_record`    the record of a session that ``scalable run`` does not make
`target`        which target to use when none is named
`current`       the session of this process, which ``scalable run`` hands to its workflow
`signals`       closing sessions on SIGTERM and SIGHUP
`ending`        the end of a run by a signal, which always arrives
`log_level`     how much is logged, by ``SCALABLE_LOG_LEVEL``
`manager`       keeping a session that outlives the shell
`control`       how other processes of the user reach it
`attached`      a client of it in another process
`forwarder`     forwarding signals that another thread received to the main thread
==============  =================================================================================

Examples
--------
A workflow names no infrastructure; the manifest and the environment decide where it runs::

    from scalable.session import ScalableSession

    with ScalableSession.from_yaml() as client:
        print(client.submit(simulate, 2050, tag="fair").result())
"""

from scalable.session.attached import AttachedSession
from scalable.session.current import current_session, set_current_session
from scalable.session.session import ScalableSession
from scalable.session.target import AUTO, choose_target

__all__ = [
    "AUTO",
    "AttachedSession",
    "ScalableSession",
    "choose_target",
    "current_session",
    "set_current_session",
]
