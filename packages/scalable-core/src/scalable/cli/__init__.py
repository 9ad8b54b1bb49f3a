"""The ``scalable`` command."""
