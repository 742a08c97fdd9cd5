"""Checks in Arrow how large a table's cell is, before Python objects are made of it.

A page of a few bytes may hold a list of millions of equal values, each of which becomes an object.
"""

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.support.errors import BadSample


def require_small(cell: pa.Array, name: str, *, most_items: int, most_bytes: int) -> None:
    """Raise BadSample if a cell, an array of one value, holds more items or bytes of text than allowed.

    Args:
        name: of the cell's column, for messages.
        most_items: of all lists at each depth.
        most_bytes: of texts and binary values together.
    """
    size = _bytes(cell, name, most_items)
    if size > most_bytes:
        raise BadSample(f"the column {name!r} is too long: {size} bytes, more than {most_bytes}")


def _bytes(values: pa.Array, name: str, most_items: int) -> int:
    """Count the bytes of the texts and binary values in an array of any type."""
    if isinstance(values, pa.ExtensionArray):
        values = values.storage
    kind = values.type
    if pa.types.is_map(kind) or (pa.types.is_nested(kind) and not pa.types.is_struct(kind)):
        return _bytes_of_lists(values, name, most_items)
    if pa.types.is_struct(kind):
        return sum(_bytes(part, name, most_items) for part in values.flatten())
    if pa.types.is_dictionary(kind):
        return _bytes_of_dictionary(values, name, most_items)
    if pa.types.is_string_view(kind) or pa.types.is_binary_view(kind):
        values = values.cast(pa.large_binary())
    if _has_length(values.type):
        return int(pc.sum(pc.binary_length(values)).as_py() or 0)
    return int(values.nbytes)


def _has_length(kind: pa.DataType) -> bool:
    return any(
        check(kind)
        for check in (
            pa.types.is_string,
            pa.types.is_large_string,
            pa.types.is_binary,
            pa.types.is_large_binary,
        )
    )


def _bytes_of_lists(values: pa.Array, name: str, most_items: int) -> int:
    if pa.types.is_map(values.type):
        values = values.cast(
            pa.list_(pa.struct([("key", values.type.key_type), ("value", values.type.item_type)]))
        )
    items = int(pc.sum(pc.list_value_length(values)).as_py() or 0)
    if items > most_items:
        raise BadSample(f"the column {name!r} holds {items} values, more than {most_items}")
    return _bytes(values.flatten(), name, most_items)


def _bytes_of_dictionary(values: pa.DictionaryArray, name: str, most_items: int) -> int:
    """Count the bytes of the values that the indices name, however often each is named."""
    if not _has_length(values.dictionary.type):
        return _bytes(values.dictionary_decode(), name, most_items)
    lengths = pc.binary_length(values.dictionary)
    return int(pc.sum(lengths.take(values.indices)).as_py() or 0)
