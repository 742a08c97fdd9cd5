"""The reference: one input and its undisturbed run, to compare disturbed runs with."""

import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.processes import run
from tests.support.runs import lasting, rows, unit_names
from tests.support.tars import write_tar

TRIMLINE = str(Path(sys.executable).with_name("trimline"))
SETTINGS = [
    *("source=webdataset", "task=vqa", "model=random", "reducer=trim", "decoding.max_new_tokens=2"),
    *("cluster.encode.threads=1", "cluster.generate.threads=1", "device=cpu"),
    "unit_bytes=4000",  # units close at different sample counts, since image sizes vary
]
SAMPLES = (10, 44, 44)  # per tar: the first is finished long before the others
QUESTIONS = 2


@dataclass
class Reference:
    """An input and the output of a run over it."""

    folder: Path
    tars: str
    output: Path
    rows: list[dict[str, Any]] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    seconds: float = 0.0  # duration of the undisturbed run

    def overrides(self, output: str, *options: str, tars: str | None = None) -> list[str]:
        return [f"source.path={tars or self.tars}", f"output={output}", *SETTINGS, *options]

    def command(self, output: str, *options: str, tars: str | None = None) -> list[str]:
        return [TRIMLINE, "annotate", *self.overrides(output, *options, tars=tars)]


def make(folder: Path) -> Reference:
    """Write the input and annotate it once, undisturbed."""
    for seed, samples in enumerate(SAMPLES):
        write_tar(folder / "tars" / f"{seed}.tar", samples, seed=seed, questions=QUESTIONS)
    reference = Reference(folder, str(folder / "tars"), folder / "whole")
    began = time.monotonic()
    done = run(reference.command(str(reference.output)), folder)
    reference.seconds = time.monotonic() - began
    assert done.returncode == 0, done.stderr
    reference.rows, reference.names = lasting(rows(reference.output)), unit_names(reference.output)
    widths = {int(name[16:24]) - int(name[7:15]) for name in reference.names}
    assert len(reference.names) > 40 and len(widths) > 2, (
        "the units' ranges must vary, or the comparison proves little"
    )
    return reference
