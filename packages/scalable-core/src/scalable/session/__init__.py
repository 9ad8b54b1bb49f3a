"""A session: one manifest, one target, one cluster.

Examples
--------
A workflow names no infrastructure; the manifest and the environment say where it runs::

    from scalable.session import ScalableSession

    with ScalableSession.from_yaml() as client:
        print(client.submit(simulate, 2050, tag="fair").result())
"""

from scalable.session.current import current_session, set_current_session
from scalable.session.session import ScalableSession
from scalable.session.target import AUTO, choose_target

__all__ = ["AUTO", "ScalableSession", "choose_target", "current_session", "set_current_session"]
