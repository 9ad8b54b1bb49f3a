"""Results that last: what tasks have computed, in a store, for later runs on any target.

==============  =================================================================================
`marking`       `cached`, for functions whose results are kept wherever they are called
`source`        the source of a function, as far as it decides what is computed
`belonging`     which modules, functions and classes are the user's
`hashing`       what all digests are made with
`libraries`     digests of values of NumPy, pandas and xarray
`attributes`    what modules, functions and classes hold beside their source
`cycles`        values that contain themselves
`content`       digests of values and of code
`naming`        the name of a result: what its call is computed from
`files`         functions of tasks whose files are checked
`store`         the store, on any file system of fsspec; also on workers
`plugins`       what gives workers these modules, sent by value
`settings`      what a manifest says of all this
`comparing`     what the names of two results differ in
`history`       which results a run has asked for, and why the next one computes some again
`reuse`         which calls have a result, and how the others get one
==============  =================================================================================
"""

from scalable.results.marking import cached
from scalable.results.reuse import Results, open_results

__all__ = ["Results", "cached", "open_results"]
