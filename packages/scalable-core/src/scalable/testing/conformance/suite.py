"""`ProviderConformance`: all tests together."""

from __future__ import annotations

from scalable.testing.conformance.abilities import AbilityTests
from scalable.testing.conformance.endings import EndingTests
from scalable.testing.conformance.faults import FaultTests
from scalable.testing.conformance.planning import PlanningTests
from scalable.testing.conformance.workers import WorkerTests

__all__ = ["ProviderConformance"]


# pytest runs the tests of the last base first.
class ProviderConformance(EndingTests, FaultTests, WorkerTests, AbilityTests, PlanningTests):
    """The requirements of a provider, one test each. Subclass it and set `manifest`.

    Attributes
    ----------
    manifest : str
        A manifest whose first target is the provider's, with two components: ``alpha`` with 1 slot, ``beta`` with 2.
        The target sets no worker counts.
    broken : mapping of str to str
        Fields that, added to ``alpha`` of `manifest`, keep its workers from starting.
    cannot : mapping of str to str or Limitation
        What the provider cannot do (``adapt``, ``explain_failed_start``, ``interrupt``, ``leftovers``, ``replace``),
        with the reason. Its test becomes a strict expected failure: once it passes, pytest fails it and names the
        declaration to remove.
    timeout : float
        Seconds to wait for a start, a result, or any other event.
    client_options : mapping of str to object
        Options of the target for clients in other processes, which exit without closing their cluster or are killed.
    other_image : str
        An image as good as that of `manifest`, in which the variable ``SCALABLE_CONFORMANCE_IMAGE`` is ``other``.
        Without it, it is not tested that each component gets its own image.
    """
