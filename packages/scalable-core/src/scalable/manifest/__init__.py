"""The manifest: ``scalable.yaml`` as models, positions and problems."""
