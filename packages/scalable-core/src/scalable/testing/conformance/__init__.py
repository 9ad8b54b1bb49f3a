"""The requirements of every provider, as tests that any provider can run.

A provider runs them by a subclass of a few lines in a test module of its own::

    from scalable.testing.conformance import ProviderConformance


    class TestConformance(ProviderConformance):
        manifest = '''
        version: 1
        project: {name: conformance}
        targets: {here: {provider: shell}}
        components: {alpha: {}, beta: {slots: 2}}
        '''

The tests start real workers and use only the public interface.

==============  ==============================================================================
`suite`         `ProviderConformance`, which has the tests of all modules
`base`          what a provider sets and overrides, and what the tests share
`planning`      tests of what happens before anything starts
`abilities`     tests of what only some providers can: prices, rendering, checks before a start
`workers`       tests of workers and groups
`endings`       tests of what is left after a failed build, and after the end
`faults`        tests of a native system whose answers are partial, refused, late, lost or false
`failing`       the steps of a build, each of which can be made to fail
`clients`       processes that build a cluster, to be killed
`local`         what a test has started on this machine
`running`       a cluster under test, and what tests run on its workers
==============  ==============================================================================
"""

from scalable.testing.conformance.base import Limitation
from scalable.testing.conformance.failing import NativeCall
from scalable.testing.conformance.running import Running, by_value
from scalable.testing.conformance.suite import ProviderConformance

__all__ = ["Limitation", "NativeCall", "ProviderConformance", "Running", "by_value"]
