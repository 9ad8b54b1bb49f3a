"""Tools for testing providers, and what is built on them.

==============  ======================================================================================
`conformance`   the requirements of every provider, as tests that any provider can run
`faults`        `FaultyBackend`: a provider's own backend, with answers that are uncertain
`fakes`         `FakeProvider`: real Dask workers on simulated machines
`simulation`    the engine in virtual time, with a simulated native system and a simulated scheduler
`offline`       helpers for tests of validating and planning
`plugin`        the pytest plugin, which pytest loads by itself
==============  ======================================================================================
"""
