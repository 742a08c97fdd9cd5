"""Joins the arms' outputs unit by unit: the same requests in the same order, or an error naming one."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.output.footers import Footer, footer_in
from pipeline.output.layout import DATA
from pipeline.output.opened import Output, open_output
from pipeline.storage.uris import Storage
from pipeline.support.errors import ConfigError
from pipeline.support.parallel import each
from pipeline.support.progress_lines import telling
from pipeline.support.schema import ARM_COLUMNS, SHARED_COLUMNS

IMAGE = "image_sha256"  # null in an arm that did not read the image
# the columns that define a request, the same in every arm
REQUEST = tuple(name for name in SHARED_COLUMNS if name != IMAGE)
_UNITS_AT_ONCE = 4
_COLUMNS = [*SHARED_COLUMNS, *ARM_COLUMNS, "model"]


@dataclass(frozen=True)
class JoinedUnit:
    """Holds one unit of every arm: row by row the same requests, and the files' footers."""

    tables: dict[str, pa.Table]
    footers: dict[str, Footer]


def open_arms(outputs: Mapping[str, str], storage: Storage) -> dict[str, Output]:
    """Open the arms' outputs; ConfigError, which names the arm, if one is missing or damaged."""
    arms = {}
    for arm, folder in outputs.items():
        try:
            arms[arm] = open_output(folder, storage)
        except ConfigError as error:
            raise ConfigError(f"arm {arm}: {error}") from None
    return arms


def joined_units(outputs: Mapping[str, Output]) -> Iterator[JoinedUnit]:
    """Read the units of finished outputs in the order of the plan, a few of each arm at a time.

    Raises:
        ConfigError: an output is not finished or damaged, or any unit or key of one arm is missing, doubled
            or elsewhere in another; the message names the arm and the file or key.
    """
    names = same_units(outputs)

    def read(name: str) -> dict[str, pa.Table]:
        return {arm: _read(arm, output, name) for arm, output in outputs.items()}

    read_units = each(read, names, _UNITS_AT_ONCE)
    for name, tables in zip(names, telling(read_units, len(names), "units read"), strict=True):
        require_same_requests(tables, name)
        yield JoinedUnit(tables, {arm: _footer(arm, table, name) for arm, table in tables.items()})


def same_units(outputs: Mapping[str, Output]) -> list[str]:
    """List the names of the unit files, in order; ConfigError unless all arms have the same."""
    names = {arm: dict.fromkeys(output.names()) for arm, output in outputs.items()}
    first, *others = names
    for arm in others:
        for lacking, having in ((arm, first), (first, arm)):
            missing = [name for name in names[having] if name not in names[lacking]]
            if missing:
                more = f", and {len(missing) - 1} more," if len(missing) > 1 else ""
                raise ConfigError(f"arm {lacking} lacks data/{missing[0]},{more} which arm {having} has")
    for output in outputs.values():
        output.require_finished()
    return list(names[first])


def _read(arm: str, output: Output, name: str) -> pa.Table:
    storage = output.storage
    fs, path = storage.open(output.folder)
    try:
        with storage.reaching(f"arm {arm}", output.folder), fs.open(f"{path}/{DATA}/{name}", "rb") as file:
            return pq.read_table(file, columns=_COLUMNS, page_checksum_verification=True)
    except pa.ArrowException as error:
        raise ConfigError(f"arm {arm}: data/{name}: {storage.redact(str(error))[:200]}") from None


def _footer(arm: str, table: pa.Table, name: str) -> Footer:
    footer = footer_in(table.schema.metadata)
    if footer is None:
        raise ConfigError(f"arm {arm}: data/{name} was not written by Trimline")
    return footer


def require_same_requests(tables: Mapping[str, pa.Table], name: str) -> None:
    """Raise ConfigError, naming arm and key, unless row i of every arm's unit is the same request."""
    first, *others = tables
    keys = {arm: table["key"].to_pylist() for arm, table in tables.items()}
    for arm in tables:
        _require_unique(arm, keys[arm], name)
    for arm in others:
        if keys[arm] != keys[first]:
            raise ConfigError(_key_fault(first, keys[first], arm, keys[arm], name))
        for column in SHARED_COLUMNS:
            _require_equal(column, first, arm, tables, name)


def _require_unique(arm: str, keys: list[str], name: str) -> None:
    doubled = [key for key, times in Counter(keys).items() if times > 1]
    if doubled:
        raise ConfigError(f"arm {arm}: data/{name} holds {doubled[0]} twice")


def _key_fault(first: str, first_keys: list[str], arm: str, keys: list[str], name: str) -> str:
    of_arm = {first: first_keys, arm: keys}
    for lacking, having in ((arm, first), (first, arm)):
        existing = set(of_arm[lacking])
        missing = [key for key in of_arm[having] if key not in existing]
        if missing:
            return f"arm {lacking} lacks {missing[0]}, which arm {having} has in data/{name}"
    moved = next(key for key, first_key in zip(keys, first_keys, strict=True) if key != first_key)
    return f"arm {arm}: data/{name} holds its rows in another order than arm {first}, from {moved} on"


def _require_equal(column: str, first: str, arm: str, tables: Mapping[str, pa.Table], name: str) -> None:
    differs = pc.fill_null(pc.not_equal(tables[first][column], tables[arm][column]), False)
    if pc.any(differs).as_py():
        key = tables[arm]["key"][pc.index(differs, True).as_py()].as_py()
        raise ConfigError(f"arm {arm}: the {column} of {key} in data/{name} is not that of arm {first}")
