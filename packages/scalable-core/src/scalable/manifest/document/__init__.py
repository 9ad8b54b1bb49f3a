"""A document as a tree of nodes that know where they were written: from YAML text, or from data of Python.

Nothing here knows what a manifest may contain.

===========  =====================================================================================
`limits`     how large a document may be, and which characters text must not contain
`paths`      keys from the top of a document down: ``targets.hpc.walltime``
`scalars`    what a plain scalar means, by the core schema of YAML 1.2
`nodes`      the tree: mappings, lists and scalars, each with its position
`decoding`   bytes → text
`reader`     text → PyYAML's events → nodes, with a position for each problem
`data`       dicts, lists and scalars → nodes without positions
`redaction`  texts without the values of variables
`place`      `Place`, which the rest of the manifest hands on: a node with its path and its position
===========  =====================================================================================
"""
