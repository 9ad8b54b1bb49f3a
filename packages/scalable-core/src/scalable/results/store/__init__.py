"""The store of results: the only code that touches it, in the client, on workers and for the command.

Nothing here imports Scalable but itself, because workers get these modules as text: their image may have none of our
packages.

==============  =================================================================================
`objects`       the format of a result: one object, which says by itself whether it is whole
`disk`          files of a local disk: who can have written them, and how they appear at once
`location`      objects under a path or a URL of fsspec: written, read, listed and removed
`segments`      files that have many small results of a local disk
`storage`       a store: the results at a location
`outputs`       files that tasks write, and their copies in the store
`keeping`       what tasks call on workers
==============  =================================================================================
"""
