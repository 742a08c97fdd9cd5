"""Answers a unit that did not get through its stage: whole once more, then sample by sample."""

from collections.abc import Callable
from dataclasses import dataclass, field

import pyarrow as pa

from pipeline.run.guard.faults import DeviceBroken, DeviceRaised, Run, StageRaised, UnitFault
from pipeline.run.guard.samples import (
    count_open,
    join_samples,
    mark_failed,
    split_by_request,
    split_by_sample,
)
from pipeline.stages.rows import UnitRow, pack_unit, unpack_unit
from pipeline.support.errors import RunError

# So many faults without an answer, and nothing known that is answered: the place is taken to be at fault.
UNDECIDED = 3
# Tries a sample that was answered before: this unit's own if there is one, else another's. Returns whether
# there was one; DeviceBroken if it is answered no more.
Control = Callable[[pa.Table | None], bool]


@dataclass(frozen=True)
class Passed:
    """Holds a unit after a stage, and the last error if every row that was open has failed there."""

    batch: pa.Table
    hopeless: str | None = None


def answer_in_pieces(
    name: str, run: Run, batch: pa.Table, patience: int | None = None, control: Control | None = None
) -> Passed:
    """Run a unit through the stage `name`; what fails even alone becomes `failed` rows.

    After an exception a sample's requests are tried one by one, where the stage has them as rows.

    Args:
        run: the stage; it raises UnitFault.
        patience: after so many faults without an answer, the rest fails without being tried.
        control: tells before any row fails whether the place is at fault; None: it cannot be.

    Raises:
        RunError: the stage does not even pass failed rows on.
        DeviceBroken: the place is at fault.
    """
    try:  # the whole unit first: batches of the usual size give the usual answers
        return Passed(run(batch))
    except UnitFault as fault:
        whole = str(fault)
    row = unpack_unit(batch)
    pieces = _Pieces(name, run, patience, control)
    for sample in split_by_sample(row):
        pieces.add(sample)
    pieces.decide()
    if not pieces.done:
        raise RunError(f"stage {name} fails on an empty unit: {row.unit.file_name}: {whole}")
    return Passed(pack_unit(join_samples(pieces.done)), None if pieces.has_answers else pieces.error)


@dataclass
class _Pieces:
    """Collects the answered and the failed pieces of a unit."""

    name: str
    run: Run
    patience: int | None
    control: Control | None = None
    known: pa.Table | None = None  # a piece that was answered
    undecided: list[tuple[UnitRow, str]] = field(default_factory=list)  # pieces and what they met
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
            is_code = is_exception and not isinstance(fault, DeviceRaised)  # no GPU is at fault
        else:
            if count_open(piece) > 0:
                self.has_answers = True
                self.known = self.known or pack_unit(piece)
            return
        if is_exception and "requests" in piece.tables and count_open(piece) > 1:
            for request in split_by_request(piece):
                self.add(request)
        else:
            self.faults, self.error = self.faults + 1, error
            if self.control is None or self.control(self.known) or is_code:
                self._add_failed(piece, error)
            else:
                self.undecided.append((piece, error))
                if len(self.undecided) >= UNDECIDED:
                    raise DeviceBroken(error)

    def decide(self) -> None:
        """Mark as failed what was left undecided, once something is known to be answered here."""
        if not self.undecided:
            return
        assert self.control is not None
        if not self.control(self.known):
            raise DeviceBroken(self.undecided[0][1])
        for piece, error in self.undecided:
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
