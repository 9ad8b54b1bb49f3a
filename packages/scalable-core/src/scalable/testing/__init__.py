"""Tests and test doubles for providers and their authors.

==============  ======================================================================================
`conformance`   the requirements on every provider, as tests that any provider can run
`fakes`         `FakeProvider`: real Dask workers on simulated machines
`simulation`    the engine in virtual time, between a simulated native system and a simulated scheduler
`offline`       helpers for tests of what a provider does before anything starts
`plugin`        the pytest plugin, which pytest finds by itself
==============  ======================================================================================
"""
