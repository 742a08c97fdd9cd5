"""One input and one run of the command that nothing disturbs, whose answers the disturbed runs must give."""

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
    "unit_bytes=4000",  # ranges vary with the images' sizes
]
SAMPLES = (10, 44, 44)  # of each tar: the first is finished long before the others
QUESTIONS = 2


@dataclass
class Reference:
    """The input, and what a run over it wrote."""

    folder: Path
    tars: str
    whole: Path
    rows: list[dict[str, Any]] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    seconds: float = 0.0  # that it took

    def overrides(self, output: str, *more: str, tars: str | None = None) -> list[str]:
        return [f"source.path={tars or self.tars}", f"output={output}", *SETTINGS, *more]

    def command(self, output: str, *more: str, tars: str | None = None) -> list[str]:
        return [TRIMLINE, "annotate", *self.overrides(output, *more, tars=tars)]


def make(folder: Path) -> Reference:
    """Write the input and annotate it once in peace."""
    for seed, samples in enumerate(SAMPLES):
        write_tar(folder / "tars" / f"{seed}.tar", samples, seed=seed, questions=QUESTIONS)
    made = Reference(folder, str(folder / "tars"), folder / "whole")
    began = time.monotonic()
    done = run(made.command(str(made.whole)), folder)
    made.seconds = time.monotonic() - began
    assert done.returncode == 0, done.stderr
    made.rows, made.names = lasting(rows(made.whole)), unit_names(made.whole)
    widths = {int(name[16:24]) - int(name[7:15]) for name in made.names}
    assert len(made.names) > 40 and len(widths) > 2, "ranges must vary for this to mean much"
    return made
