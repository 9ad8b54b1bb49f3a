"""The only module that talks to Google Cloud: calls of Compute Engine through its REST clients, in threads.

Where the variable ``SCALABLE_GCE_ENDPOINT`` is set, calls go there in place of ``https://compute.googleapis.com``: to an
endpoint of Private Service Connect (``https://compute-name.p.googleapis.com``), or to a service that stands in for
Compute Engine on this machine (``http://127.0.0.1:8080``). Over ``http``, a token would be readable on the way, so such
an endpoint must be a loopback address, and calls to it carry no credentials at all: none are looked for.

Only methods that return the bare operation are used (``bulk_insert_unary``): the objects that the others return poll
``compute.googleapis.com`` whatever the endpoint is.
"""
