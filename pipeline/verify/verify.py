"""The check of a whole output, or of every arm of a comparison."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pyarrow as pa

from pipeline.output.layout import DATA, MANIFEST, PLAN, SUCCESS, SUMMARY
from pipeline.output.manifest import Manifest, load_manifest
from pipeline.output.opened import outputs_at, questions_of
from pipeline.output.plan import Plan, load_plan
from pipeline.output.summary import is_successful, read_summary
from pipeline.output.units import Unit
from pipeline.storage.uris import Storage, is_temporary, list_names, name_of, write_atomic
from pipeline.support.errors import ConfigError
from pipeline.support.fields import free, require
from pipeline.support.parallel import THREADS, each
from pipeline.verify.files import Checked, check_file
from pipeline.verify.findings import Finding, Verified, of_unit
from pipeline.verify.source import not_planned, prove
from pipeline.verify.tiling import doubled, groups, unclaimed


@dataclass(frozen=True, kw_only=True)
class Moved:
    """Where the source lies now; None: where it did."""

    path: str | None = free(None)


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What is verified, and how far.

    Args:
        output: of `annotate` or `compare`, finished or not.
        deep: hold the rows against the source, too.
        repair: remove what a rerun has to make again.
        json: a file or URI for the findings; None: none is written.
    """

    output: str = free()
    deep: bool = free(False)
    repair: bool = free(False)
    json: str | None = free(None)
    source: Moved = free(default_factory=Moved)

    def __post_init__(self) -> None:
        require(bool(self.output), "output must not be empty")


def verify(options: Verification, storage: Storage) -> list[Verified]:
    """Verify an output, or one after the other the arms of a comparison; with `repair`, mend them.

    Raises:
        ConfigError: there is no output, it cannot be reached, or the source cannot.
    """
    found = []
    for folder in outputs_at(options.output, storage):
        found.append(_verify_one(folder, options, storage))
        if options.repair:
            repair(found[-1], storage)
    if options.json is not None:
        with storage.reaching("json", options.json):
            text = storage.hide(json.dumps([one.told() for one in found], indent=2))
            write_atomic(*storage.open(options.json), text.encode())
    return found


def _verify_one(folder: str, options: Verification, storage: Storage) -> Verified:
    found = Verified(folder, options.deep)
    with storage.reaching("output", folder):
        units = sorted(_listed(folder, found, storage))
        opened = _opened(folder, found, storage)
    if opened is None:
        return found
    manifest, plan = opened
    found.shards = len(plan)
    files = _Files()
    for one in each(lambda unit: check_file(unit, folder, manifest, plan, storage), units, THREADS):
        files.add(one)
    found.units, found.rows = files.units, files.rows
    found.findings += files.findings()
    for shard, some in files.sound.items():
        grouped = groups(some)
        found.findings += (finding for group in grouped if len(group) > 1 for finding in doubled(group))
        files.sound[shard] = [group[0] for group in grouped if len(group) == 1]
    if not files.none_agrees:
        found.findings += unclaimed(units, len(plan))
    found.notes += (
        f"shard {shard} could not be read whole: {error}" for shard, error in files.errors.items()
    )
    with storage.reaching("output", folder):
        found.findings += _marks(folder, found, files.status, storage)
    if options.deep:
        questions = questions_of(folder, manifest, plan, options.source.path, storage)
        found.findings += prove(questions, files.sound, files.errors)
        found.notes += not_planned(questions)
    return found


def _opened(folder: str, found: Verified, storage: Storage) -> tuple[Manifest, Plan] | None:
    """run.json and the plan; None, and a finding, if one of them is missing or damaged."""
    fs, path = storage.open(folder)
    manifest = plan = None
    if not fs.exists(f"{path}/{MANIFEST}"):
        found.findings.append(Finding("missing", "what made the output is not known", file=MANIFEST))
    else:
        try:
            manifest = load_manifest(folder, storage)
        except ConfigError as error:
            found.findings.append(Finding("damaged", str(error), file=MANIFEST))
    try:
        plan = load_plan(folder, storage)
    except (pa.ArrowException, OSError, LookupError, TypeError) as error:
        text = storage.redact(f"it cannot be read: {error}")[:200]
        found.findings.append(Finding("damaged", text, file=f"{PLAN}/"))
    else:
        if plan is None:
            found.findings.append(Finding("missing", "which shards there are is not known", file=f"{PLAN}/"))
        elif plan.table["shard"].to_pylist() != list(range(len(plan))):
            found.findings.append(Finding("missing", "a part of it is not there", file=f"{PLAN}/"))
            plan = None
    return (manifest, plan) if manifest is not None and plan is not None else None


def _listed(folder: str, found: Verified, storage: Storage) -> Iterator[Unit]:
    """The units that have a file; a finding for what has no place in an output."""
    fs, path = storage.open(folder)
    for below in ("", f"{PLAN}/", f"{DATA}/"):
        for name in list_names(fs, f"{path}/{below}".rstrip("/")):
            unit = Unit.of_file(name) if below == f"{DATA}/" else None
            if unit is not None and unit.file_name == name:
                yield unit
            elif is_temporary(name):
                text = "its writer was stopped before it was done"
                found.findings.append(Finding("leftover", text, file=f"{below}{name}", remove=True))
            elif below == f"{DATA}/":
                kind = "damaged" if name.endswith(".parquet") else "leftover"  # readers take it for a unit's
                found.findings.append(Finding(kind, "no unit has such a name", file=f"{below}{name}"))


class _Files:
    """What the files' checks have found; of each one that is in order its unit is kept."""

    def __init__(self) -> None:
        self.units = self.rows = 0
        self.status: Counter[str] = Counter()
        self.errors: dict[int, str] = {}  # of shards
        self.sound: dict[int, list[Unit]] = defaultdict(list)
        self._faults: list[Finding] = []
        self._foreign: list[Finding] = []

    def add(self, one: Checked) -> None:
        self.units += 1
        self.rows += one.rows
        self.status.update(one.status)
        if one.fault is not None:
            self._faults.append(of_unit("damaged", one.unit, one.fault, remove=True))
        elif one.foreign is not None:
            self._foreign.append(of_unit("damaged", one.unit, one.foreign, remove=one.planned))
        else:
            self.sound[one.unit.shard].append(one.unit)
            if one.shard_error is not None:
                self.errors[one.unit.shard] = one.shard_error

    @property
    def none_agrees(self) -> bool:
        """Whether it is rather run.json or the plan that is another output's."""
        return bool(self._foreign) and not self.sound

    def findings(self) -> list[Finding]:
        """A finding for each file that is not in order."""
        if not self.none_agrees:
            return self._faults + self._foreign
        first = self._foreign[0]
        text = f"no file agrees with run.json and plan/, which may be another output's: {first.text}"
        return [*self._faults, replace(first, text=text, remove=False)]


def _marks(folder: str, found: Verified, status: Counter[str], storage: Storage) -> Iterator[Finding]:
    """What _SUCCESS and summary.json say that is not so."""
    if not is_successful(folder, storage):
        found.notes.append("there is no _SUCCESS: the run has not ended, or not well")
        return
    if not found.ok:
        yield Finding("damaged", "it says that all is well", file=SUCCESS, remove=True)
        return
    counts = {"shards": found.shards, "units": found.units, "rows": found.rows, "status": dict(status)}
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


_MARKS = (SUCCESS, SUMMARY)


def repair(found: Verified, storage: Storage) -> None:
    """Remove the files that a finding says are to be removed, and what says that they were in order."""
    fs, path = storage.open(found.output)
    files = sorted({finding.file for finding in found.findings if finding.remove and finding.file})
    if any(file.startswith(f"{DATA}/") and not is_temporary(name_of(file)) for file in files):
        # first, lest a kill leaves them beside what is not whole
        files = [*_MARKS, *(file for file in files if file not in _MARKS)]
    with storage.reaching("output", found.output):
        for file in files:
            if fs.exists(f"{path}/{file}"):
                fs.rm_file(f"{path}/{file}")
                found.removed.append(file)
