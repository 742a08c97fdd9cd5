"""Making room for what a rerun has to make again."""

from pipeline.storage import Storage, is_temporary, name_of
from pipeline.verify.findings import Verified

_MARKS = ("_SUCCESS", "summary.json")


def repair(found: Verified, storage: Storage) -> None:
    """Remove the files that a finding says are to be removed, and what says that they were in order."""
    fs, path = storage.open(found.output)
    files = sorted({finding.file for finding in found.findings if finding.remove and finding.file})
    if any(file.startswith("data/") and not is_temporary(name_of(file)) for file in files):
        # first, lest a kill leaves them beside what is not whole
        files = [*_MARKS, *(file for file in files if file not in _MARKS)]
    with storage.reaching("output", found.output):
        for file in files:
            if fs.exists(f"{path}/{file}"):
                fs.rm_file(f"{path}/{file}")
                found.removed.append(file)
