"""Checks a whole output, or every arm of a comparison, and removes units that a rerun must make again."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pyarrow as pa

from pipeline.output.computed_on import mixture_lines
from pipeline.output.done import forget_sums
from pipeline.output.failed_shards import not_read_whole
from pipeline.output.layout import DATA, DONE, MANIFEST, PLAN, SLICES, SUCCESS, SUMMARY
from pipeline.output.manifest import RULES, Manifest, load_manifest
from pipeline.output.opened import outputs_at, questions_of
from pipeline.output.plan import Plan, load_plan
from pipeline.output.repeated import RepeatedNames
from pipeline.output.summary import is_successful, read_summary
from pipeline.output.units import Unit
from pipeline.run.slices import parse_slice
from pipeline.storage.uris import Storage, is_temporary, list_names, name_of, write_atomic
from pipeline.support.errors import ConfigError
from pipeline.support.fields import free, require
from pipeline.support.processes import each_of_many
from pipeline.support.progress_lines import telling
from pipeline.verify.files import Checked, check_file
from pipeline.verify.findings import Finding, Verified, of_unit
from pipeline.verify.leftovers import left_parts
from pipeline.verify.source import not_planned, prove
from pipeline.verify.sums import SumsCheck
from pipeline.verify.tiling import doubled, overlapping, unclaimed


@dataclass(frozen=True, kw_only=True)
class Moved:
    """Configures where the source lies now: as many paths as the run had; None: where the plan has it."""

    path: Any = free(None)  # as `source.path`


@dataclass(frozen=True, kw_only=True)
class Verification:
    """Configures `trimline verify`.

    Args:
        output: of `annotate` or `compare`, finished or not.
        deep: compare the rows with the source, too.
        repair: remove the files that a rerun has to make again.
        slice: `i/n`: the shards of this slice alone, as a run takes them; None: all.
        json: a file or URI for the findings; None: none is written.
    """

    output: str = free()
    deep: bool = free(False)
    repair: bool = free(False)
    slice: str | None = free(None)
    json: str | None = free(None)
    source: Moved = free(default_factory=Moved)

    def __post_init__(self) -> None:
        require(bool(self.output), "output must not be empty")
        if self.slice is not None:
            parse_slice(self.slice)


def verify(options: Verification, storage: Storage, reading: Storage | None = None) -> list[Verified]:
    """Verify an output, or the arms of a comparison one after the other; with `repair`, repair them.

    Args:
        storage: how to reach the output.
        reading: how to reach the source; None: as the output.

    Raises:
        ConfigError: there is no output, it cannot be reached, or the source cannot.
    """
    outputs = []
    for folder in outputs_at(options.output, storage):
        with RepeatedNames() as repeated:
            outputs.append(_verify_one(folder, options, storage, reading or storage, repeated))
        if options.repair:
            repair(outputs[-1], storage)
    if options.json is not None:
        with storage.reaching("json", options.json):
            text = storage.as_json([verified.to_json() for verified in outputs], indent=2)
            write_atomic(*storage.open(options.json), text.encode())
    return outputs


def _verify_one(
    folder: str, options: Verification, storage: Storage, reading: Storage, repeated: RepeatedNames
) -> Verified:
    verified = Verified(folder, options.deep)
    with storage.reaching("output", folder):
        units = sorted(_listed(folder, verified, storage))
        opened = _opened(folder, verified, storage)
    if opened is None:
        return verified
    manifest, plan = opened
    own = range(len(plan))
    if options.slice is not None:
        own_slice = parse_slice(options.slice)
        own = own_slice.shards_of(plan)
        is_last = own_slice.number == own_slice.count - 1  # it has what is of no shard of the plan, too
        units = [unit for unit in units if unit.shard in own or (is_last and unit.shard >= own.stop)]
        text = f"slice {options.slice} alone: {len(own):,} of {len(plan):,} shards, from {own.start} on"
        verified.notes.append(f"{text}; summary.json, repeated names and new files concern them all")
    verified.shards = len(own)
    files = _Files(repeated)
    with storage.reaching("output", folder):
        sums = SumsCheck(folder, plan, units, storage, repair=options.repair)
    check = partial(check_file, folder=folder, manifest=manifest, plan=plan, storage=storage)
    checked_files = each_of_many(check, units, costs=len(units))
    for checked in telling(checked_files, len(units), "files verified"):
        files.add(checked)
        if checked.footer is not None:
            with storage.reaching("output", folder):
                sums.add(checked.footer)
    verified.units, verified.rows = files.units, files.rows
    verified.findings += files.findings()
    for shard, of_shard in files.sound.items():
        grouped = overlapping(of_shard)
        verified.findings += (finding for group in grouped if len(group) > 1 for finding in doubled(group))
        files.sound[shard] = [group[0] for group in grouped if len(group) == 1]
    if not files.none_agrees:
        verified.findings += unclaimed(units, own)
    verified.notes += mixture_lines(files.rows_by_device)
    verified.notes += not_read_whole(plan, files.errors, most=len(files.errors))
    with storage.reaching("output", folder):
        if options.slice is None:
            verified.findings += _marks(folder, verified, files, storage)
        verified.findings += sums.findings()
        verified.findings += left_parts(folder, plan, storage)
    if options.deep:
        passing_over = reading.passing_over_outputs(storage, options.output, folder)
        questions = questions_of(folder, manifest, plan, options.source.path, storage, passing_over)
        differences = list(prove(questions, files.sound, files.errors, own))
        verified.findings += differences
        verified.notes += not_planned(questions) if options.slice is None else []
        of_rows = any(finding.first is not None for finding in differences)
        if of_rows and manifest.counted.get(RULES, 1) != questions.source.rules:
            verified.notes.append(
                "an earlier release made the samples by other rules, which may be all that differs from the "
                "source; repair=true and a rerun do not change that"
            )
    return verified


def _opened(folder: str, verified: Verified, storage: Storage) -> tuple[Manifest, Plan] | None:
    """Read run.json and the plan; None, and a finding, if one of them is missing or damaged."""
    fs, path = storage.open(folder)
    manifest = plan = None
    if not fs.exists(f"{path}/{MANIFEST}"):
        verified.findings.append(Finding("missing", "the output's configuration is unknown", file=MANIFEST))
    else:
        try:
            manifest = load_manifest(folder, storage)
        except ConfigError as error:
            verified.findings.append(Finding("damaged", str(error), file=MANIFEST))
    try:
        plan = load_plan(folder, storage)
    except (ConfigError, pa.ArrowException, OSError, LookupError, TypeError) as error:
        text = storage.redact(f"it cannot be read: {error}")[:200]
        verified.findings.append(Finding("damaged", text, file=f"{PLAN}/"))
    else:
        if plan is None:
            verified.findings.append(Finding("missing", "the output's shards are unknown", file=f"{PLAN}/"))
        elif plan.table["shard"].to_pylist() != list(range(len(plan))):
            verified.findings.append(Finding("missing", "a part of it is missing", file=f"{PLAN}/"))
            plan = None
    return (manifest, plan) if manifest is not None and plan is not None else None


def _listed(folder: str, verified: Verified, storage: Storage) -> Iterator[Unit]:
    """List the units that have a file; adds a finding for each file that does not belong in an output."""
    fs, path = storage.open(folder)
    for below in ("", f"{PLAN}/", f"{DATA}/", f"{DONE}/", f"{SLICES}/"):
        for name in list_names(fs, f"{path}/{below}".rstrip("/")):
            unit = Unit.of_file(name) if below == f"{DATA}/" else None
            if unit is not None and unit.file_name == name:
                yield unit
            elif is_temporary(name):
                text = "a temporary file of a writer that was stopped"
                verified.findings.append(Finding("leftover", text, file=f"{below}{name}", remove=True))
            elif below == f"{DATA}/":
                kind = "damaged" if name.endswith(".parquet") else "leftover"  # readers take it for a unit's
                verified.findings.append(Finding(kind, "no unit has such a name", file=f"{below}{name}"))


class _Files:
    """Collects the results of the files' checks: findings, and the units whose files are in order."""

    def __init__(self, repeated: RepeatedNames) -> None:
        self.units = self.rows = 0
        self.status: Counter[str] = Counter()
        self.errors: dict[int, str] = {}  # of shards
        self.sound: dict[int, list[Unit]] = defaultdict(list)
        self.repeated = repeated
        self.rows_by_device: Counter[str] = Counter()
        self._faults: list[Finding] = []
        self._foreign: list[Finding] = []

    def add(self, checked: Checked) -> None:
        self.units += 1
        self.rows += checked.rows
        self.status.update(checked.status)
        self.rows_by_device.update({checked.device: checked.rows} if checked.device else {})
        self.repeated.add(checked.unit.stop - checked.unit.first, *checked.names)
        if checked.fault is not None:
            self._faults.append(of_unit("damaged", checked.unit, checked.fault, remove=True))
        elif checked.foreign is not None:
            self._foreign.append(of_unit("damaged", checked.unit, checked.foreign, remove=checked.planned))
        else:
            self.sound[checked.unit.shard].append(checked.unit)
            if checked.shard_error is not None:
                self.errors[checked.unit.shard] = checked.shard_error

    @property
    def none_agrees(self) -> bool:
        """True if no file matches run.json and the plan: then these are probably another output's."""
        return bool(self._foreign) and not self.sound

    def findings(self) -> list[Finding]:
        """Make a finding for each file that is not in order."""
        if not self.none_agrees:
            return self._faults + self._foreign
        first = self._foreign[0]
        text = f"no file agrees with run.json and plan/, which may be another output's: {first.text}"
        return [*self._faults, replace(first, text=text, remove=False)]


def _marks(folder: str, verified: Verified, files: _Files, storage: Storage) -> Iterator[Finding]:
    """Compare _SUCCESS and summary.json with what the files hold."""
    if not is_successful(folder, storage):
        verified.notes.append("there is no _SUCCESS: the run has not ended, or it failed")
        return
    if not verified.ok:
        yield Finding("damaged", "it marks the output as complete", file=SUCCESS, remove=True)
        return
    counts = {
        "shards": verified.shards,
        "units": verified.units,
        "rows": verified.rows,
        "status": dict(files.status),
    }
    try:
        summary = read_summary(folder, storage)
    except ValueError:
        summary = None
    if summary is None:
        yield Finding("damaged", "it cannot be read", file=SUMMARY, remove=True)
        return
    for name, count in counts.items():
        stated = getattr(summary, name)
        if stated != count:
            yield Finding("damaged", f"it counts {stated} {name}, data/ {count}", file=SUMMARY, remove=True)
    stated_counts = summary.repeated or {}
    repeated = files.repeated.counts() or {}
    for column in repeated.keys() & stated_counts.keys():
        stated, count = stated_counts[column]["count"], repeated[column]
        if stated != count:
            text = f"it counts {stated} repeated {column}s, data/ {count}"
            yield Finding("damaged", text, file=SUMMARY, remove=True)


_MARKS = (SUCCESS, SUMMARY)


def repair(verified: Verified, storage: Storage) -> None:
    """Remove the files that findings mark for removal, and the marks that the output was complete.

    The marks go first: after a kill in between, no mark stands beside an incomplete output.
    """
    fs, path = storage.open(verified.output)
    files = sorted({finding.file for finding in verified.findings if finding.remove and finding.file})
    units = [Unit.of_file(name_of(file)) for file in files if file.startswith(f"{DATA}/")]
    shards = {unit.shard for unit in units if unit is not None}
    if any(file.startswith(f"{DATA}/") and not is_temporary(name_of(file)) for file in files):
        files = [*_MARKS, *(file for file in files if file not in _MARKS)]
    with storage.reaching("output", verified.output):
        forget_sums(verified.output, shards, verified.shards, storage)
        for file in files:
            with suppress(FileNotFoundError):  # another machine that verifies a slice was first
                fs.rm_file(f"{path}/{file}")
                verified.removed.append(file)
