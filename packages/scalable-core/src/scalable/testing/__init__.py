"""What providers and their authors test with.

==============  ======================================================================================
`conformance`   the promises of every provider, as tests that any provider can run
`fakes`         `FakeProvider`: real Dask workers on machines that are not there
`simulation`    the engine in virtual time, between a simulated native system and a simulated scheduler
`offline`       for tests of what a provider does before anything starts
`plugin`        the pytest plugin, which pytest finds by itself
==============  ======================================================================================
"""
