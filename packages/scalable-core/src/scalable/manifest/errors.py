"""The errors a manifest can raise, beside the code that raises them; the tree is in `scalable.errors`."""

from scalable.errors import ManifestError, ManifestParseError, ManifestSchemaError

__all__ = ["ManifestError", "ManifestParseError", "ManifestSchemaError"]
