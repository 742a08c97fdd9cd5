"""Answers a unit that did not get through its stage: whole once more, then sample by sample."""

from dataclasses import dataclass, field

import pyarrow as pa

from pipeline.run.guard.faults import Run, StageRaised, UnitFault
from pipeline.run.guard.samples import (
    count_open,
    join_samples,
    mark_failed,
    split_by_request,
    split_by_sample,
)
from pipeline.stages.rows import UnitRow, pack_unit, unpack_unit
from pipeline.support.errors import RunError


@dataclass(frozen=True)
class Passed:
    """Holds a unit after a stage, and the last error if every row that was open has failed there."""

    batch: pa.Table
    hopeless: str | None = None


def answer_in_pieces(name: str, run: Run, batch: pa.Table, patience: int | None = None) -> Passed:
    """Run a unit through the stage `name`; what fails even alone becomes `failed` rows.

    After an exception a sample's requests are tried one by one, where the stage has them as rows.

    Args:
        run: the stage; it raises UnitFault.
        patience: after so many faults without an answer, the rest fails without being tried.

    Raises:
        RunError: the stage does not even pass failed rows on.
    """
    try:  # the whole unit first: batches of the usual size give the usual answers
        return Passed(run(batch))
    except UnitFault as fault:
        whole = str(fault)
    row = unpack_unit(batch)
    pieces = _Pieces(name, run, patience)
    for sample in split_by_sample(row):
        pieces.add(sample)
    if not pieces.done:
        raise RunError(f"stage {name} fails on an empty unit: {row.unit.file_name}: {whole}")
    return Passed(pack_unit(join_samples(pieces.done)), None if pieces.has_answers else pieces.error)


@dataclass
class _Pieces:
    """Collects the answered and the failed pieces of a unit."""

    name: str
    run: Run
    patience: int | None
    done: list[UnitRow] = field(default_factory=list)
    faults: int = 0
    error: str | None = None  # the last one
    has_answers: bool = False

    def add(self, piece: UnitRow) -> None:
        """Answer a piece, or parts of it, and mark what cannot be answered as failed."""
        if self.error and not self.has_answers and self.faults == self.patience:
            self._add_failed(piece, self.error)
            return
        try:
            self.done.append(unpack_unit(self.run(pack_unit(piece))))
        except UnitFault as fault:
            is_exception, error = isinstance(fault, StageRaised), fault.error(self.name)
        else:
            self.has_answers = self.has_answers or count_open(piece) > 0
            return
        if is_exception and "requests" in piece.tables and count_open(piece) > 1:
            for request in split_by_request(piece):
                self.add(request)
        else:
            self.faults, self.error = self.faults + 1, error
            self._add_failed(piece, error)

    def _add_failed(self, piece: UnitRow, error: str) -> None:
        """Mark a piece's rows as failed, and run them through the stage, which only passes them on."""
        try:
            self.done.append(unpack_unit(self.run(pack_unit(mark_failed(piece, error)))))
        except UnitFault as fault:
            fails = f"{fault.error(self.name)}, even on rows that it only passes on"
        else:
            return
        raise RunError(fails)
