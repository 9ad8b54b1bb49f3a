"""Tools for testing providers, and what is built on them.

==============  ======================================================================================
`conformance`   the requirements of every provider, as tests that any provider can run
`faults`        `FaultyBackend`: a provider's own backend, with answers that are uncertain
`fakes`         `FakeProvider`: real Dask workers on simulated machines
`workers`       these workers, inside this process
`remote`        further requirements of a provider whose scheduler runs elsewhere
`processes`     `RemoteFakeProvider`: scheduler and workers as processes, as if they were elsewhere
`simulation`    the engine in virtual time, with a simulated native system and a simulated scheduler
`offline`       helpers for tests of validating and planning
`state`         the state of the process that belongs to the program, and that a cluster must leave as it is
`plugin`        the pytest plugin, which pytest loads by itself
==============  ======================================================================================
"""
