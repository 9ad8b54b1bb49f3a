"""Digests of values of NumPy, pandas and xarray, none of which is imported before there is one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, Protocol

from scalable.results.hashing import NoContentError, hash_of

__all__ = ["digest_of_library", "is_of_library"]


class Content(Protocol):
    """What computes the digests of the parts of a value."""

    @property
    def name_future(self) -> Callable[[Any], str | None]:
        """Return the name under which the result of a Dask future is kept, or None."""
        ...

    def digest(self, value: Any) -> bytes:
        """Return the digest of a value."""
        ...


Digest = Callable[[Content, Any, str], bytes | None]


def digest_of_library(content: Content, value: Any) -> bytes | None:
    """Return the digest of a value of one of these libraries, or of Dask's future; None if it is no such value.

    Raises
    ------
    NoContentError
        It has no content that could be compared.
    """
    kind: Any = type(value)
    for name, digest in _of_library(kind):
        if result := digest(content, value, name):
            return result
    return None


def is_of_library(value: object) -> bool:
    """Return whether a value is one of these libraries'."""
    kind: Any = type(value)
    return bool(_of_library(kind))


@lru_cache(maxsize=10_000)
def _of_library(kind: type) -> tuple[tuple[str, Digest], ...]:
    """Return what may digest values of a type, with the name of the base that it is for."""
    found = []
    for base in kind.__mro__:
        top = base.__module__.partition(".")[0]
        digest = _LIBRARIES.get((top, base.__name__))
        if digest is not None:
            found.append((base.__name__, digest))
    return tuple(found)


def _future(content: Content, value: Any, base: str) -> bytes:
    name = content.name_future(value)
    if name is None:
        raise NoContentError("the future of a call whose result is not kept")
    return hash_of("future", name)


# -- NumPy


def _describe_dtype(dtype: Any) -> str:
    import numpy as np

    describe: Any = np.lib.format.dtype_to_descr
    try:
        # Of metadata, it would warn.
        return repr(describe(np.lib.format.drop_metadata(dtype)))
    except ValueError:  # fields that overlap, or are not in the order of their names
        return repr([(n, _describe_dtype(d), at) for n, (d, at, *_) in dtype.fields.items()])


def _array(content: Content, value: Any, base: str) -> bytes | None:
    if type(value).__name__ != base:  # a subclass has more
        return None
    import numpy as np

    if value.dtype.hasobject:
        return hash_of("array", str(value.dtype), repr(value.shape), content.digest(value.tolist()))
    if value.dtype.char in "gG":
        return hash_of("array", value.dtype.char, content.digest(_split(value)))
    if value.dtype.names is not None:  # what is between the fields is not initialised
        fields = [
            part for name in value.dtype.names for part in (name, content.digest(value[name]))
        ]
        return hash_of("fields", repr(value.shape), *fields)
    content_of: Any = np.ascontiguousarray(value).reshape(-1)
    content_of = memoryview(content_of.view(np.uint8)) if value.size else b""
    return hash_of("array", _describe_dtype(value.dtype), repr(value.shape), content_of)


def _split(value: Any) -> list[Any]:
    """Return long doubles as arrays of doubles and exponents: some of their bytes are not initialised."""
    import numpy as np

    parts: list[Any] = []
    for each in (value.real, value.imag) if value.dtype.char == "G" else (value,):
        is_finite = np.isfinite(each)
        rest, exponent = np.frexp(np.where(is_finite, each, 0))
        parts += [np.where(is_finite, 0, each).astype(np.float64), exponent]
        for _ in range(3):
            parts.append(np.asarray(rest).astype(np.float64))
            rest = rest - parts[-1]
    return parts


def _masked(content: Content, value: Any, base: str) -> bytes:
    import numpy as np

    ma: Any = np.ma
    if value is ma.masked:
        return hash_of("masked", "constant")
    parts = (np.asarray(value.data), ma.getmaskarray(value), np.asarray(value.fill_value))
    return hash_of("masked", type(value).__name__, *map(content.digest, parts))


def _scalar(content: Content, value: Any, base: str) -> bytes:
    import numpy as np

    return hash_of("scalar", content.digest(np.asarray(value)))


def _dtype(content: Content, value: Any, base: str) -> bytes:
    return hash_of("dtype", _describe_dtype(value))


def _ufunc(content: Content, value: Any, base: str) -> bytes:
    if not value.__name__.isidentifier():
        raise NoContentError("a numpy.ufunc that is made of a function of Python, which it hides")
    return hash_of("ufunc", value.__name__)


def _vectorized(content: Content, value: Any, base: str) -> bytes:
    # Not what it remembers of calls.
    parts = (value.pyfunc, value.otypes, value.signature, {*value.excluded}, value.cache)
    return hash_of("vectorize", *map(content.digest, parts))


# -- pandas


def _pandas_values(content: Content, values: Any) -> bytes:
    """Return the digest of a column or of an index."""
    import numpy as np

    dtype = str(values.dtype)
    if type(values).__module__.partition(".")[0] not in ("pandas", "numpy"):
        # Of another package, such as geopandas, whose arrays have more than their items.
        return hash_of(dtype, content.digest(values))
    if dtype == "category":
        codes = content.digest(np.asarray(values.codes))
        return hash_of(dtype, str(values.ordered), content.digest(values.categories), codes)
    if hasattr(values, "asi8"):
        return hash_of(dtype, str(getattr(values, "freqstr", None)), content.digest(values.asi8))
    return hash_of(dtype, content.digest(np.asarray(values)))


def _index(content: Content, value: Any, base: str) -> bytes:
    names = content.digest(list(value.names))
    if base == "MultiIndex":
        levels = [*map(content.digest, value.levels)]
        return hash_of(base, names, *levels, content.digest([*map(list, value.codes)]))
    return hash_of(type(value).__name__, names, _pandas_values(content, value.array))


def _series(content: Content, value: Any, base: str) -> bytes:
    values = _pandas_values(content, value.array)
    parts = (content.digest(value.name), content.digest(value.index), content.digest(value.attrs))
    return hash_of(type(value).__qualname__, *parts, values, *_of_subclass(content, value))


def _of_subclass(content: Content, value: Any) -> Iterator[bytes]:
    """Yield digests of what a subclass adds.

    How it says that: https://pandas.pydata.org/docs/development/extending.html#define-original-properties.
    """
    if type(value).__module__.partition(".")[0] != "pandas":
        yield content.digest(type(value))
        for name in value._metadata:
            if name not in ("name", "_name"):
                yield hash_of(name, content.digest(getattr(value, name, None)))


def _frame(content: Content, value: Any, base: str) -> bytes:
    columns = [_pandas_values(content, value.iloc[:, i].array) for i in range(value.shape[1])]
    parts = (
        content.digest(value.columns),
        content.digest(value.index),
        content.digest(value.attrs),
    )
    return hash_of(type(value).__qualname__, *parts, *columns, *_of_subclass(content, value))


# -- xarray


def _variable(content: Content, value: Any, base: str) -> bytes:
    if value.chunks is not None:
        raise NoContentError("an xarray object of Dask arrays, which is not computed yet")
    return hash_of(
        "variable",
        content.digest(list(value.dims)),
        content.digest(dict(value.attrs)),
        content.digest(value.values),
    )


def _data_array(content: Content, value: Any, base: str) -> bytes:
    coords = sorted(value.coords.items(), key=lambda item: str(item[0]))
    return hash_of(
        type(value).__qualname__,
        content.digest(value.name),
        _variable(content, value.variable, base),
        *(
            hash_of(content.digest(name), _variable(content, each.variable, base))
            for name, each in coords
        ),
    )


def _dataset(content: Content, value: Any, base: str) -> bytes:
    variables = sorted(value.variables.items(), key=lambda item: str(item[0]))
    return hash_of(
        type(value).__qualname__,
        content.digest(dict(value.attrs)),
        content.digest(sorted(map(str, value.coords))),
        *(
            hash_of(content.digest(name), _variable(content, each, base))
            for name, each in variables
        ),
    )


_LIBRARIES: dict[tuple[str, str], Digest] = {
    ("distributed", "Future"): _future,
    ("numpy", "MaskedArray"): _masked,
    ("numpy", "ndarray"): _array,
    ("numpy", "generic"): _scalar,
    ("numpy", "dtype"): _dtype,
    ("numpy", "ufunc"): _ufunc,
    ("numpy", "vectorize"): _vectorized,
    ("pandas", "MultiIndex"): _index,
    ("pandas", "Index"): _index,
    ("pandas", "Series"): _series,
    ("pandas", "DataFrame"): _frame,
    ("xarray", "DataArray"): _data_array,
    ("xarray", "Dataset"): _dataset,
    ("xarray", "Variable"): _variable,
}
