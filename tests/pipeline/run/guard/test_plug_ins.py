"""A run whose reducer, engine and source, all of them a user's own, raise exceptions on some samples."""

import sys
import time
from pathlib import Path

import pytest

from pipeline.run.in_process import run_in_process
from tests.support.commands import compose, trimline
from tests.support.runs import lasting, read_units, rows
from tests.support.tars import write_tar

CODE = '''
from dataclasses import dataclass
from typing import ClassVar

from pipeline.engines.transformers import Transformers
from pipeline.sources.webdataset import WebDataset
from pipeline.support.fields import counted
from trim import Trim


@dataclass(frozen=True)
class Picky(Trim):
    """TRIM, but it raises on the batches that hold a request."""

    refused: tuple[int, ...] = ()
    needs: ClassVar[frozenset] = Trim.needs | {"identity"}

    def __call__(self, x):
        if set(x.identity.tolist()) & set(self.refused):
            raise KeyError("not in my table")
        return super().__call__(x)


@dataclass(frozen=True, kw_only=True)
class Fragile(Transformers):
    """The transformers engine, which answers nothing any more once it has met a word."""

    word: str = counted("")

    def load(self, *arguments, **options):
        return Engine(super().load(*arguments, **options), self.word)


class Engine:
    def __init__(self, engine, word):
        self.engine, self.word, self.is_broken = engine, word, False

    def generate(self, requests):
        self.is_broken = self.is_broken or any(self.word in request.prompt for request in requests)
        if self.is_broken:
            raise RuntimeError("CUDA error: device-side assert triggered\\nat /usr/lib/kernel.cu:7")
        return self.engine.generate(requests)


@dataclass(frozen=True, kw_only=True)
class Buggy(WebDataset):
    """Tars whose reader raises at a certain key."""

    at: str = counted("")

    def samples(self, *arguments, **options):
        for sample in super().samples(*arguments, **options):
            if self.at and getattr(sample, "key", None) == self.at:
                raise AttributeError("no such thing")
            yield sample
'''
TRIM = (Path(__file__).parents[4] / "conf" / "reducer" / "trim.yaml").read_text()
SETTINGS = [
    *("task=vqa", "model=random", "device=cpu", "decoding.max_new_tokens=2", "unit_samples=3"),
    *("cluster.encode.threads=1", "cluster.generate.threads=1", "max_failed_fraction=0.9"),
]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_run_goes_on_and_all_other_requests_are_answered(tmp_path):
    from pipeline.stages.batches import identity_of

    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "faulty.py").write_text(CODE)
    paths = [str(tmp_path / "code"), *filter(None, sys.path)]
    (tmp_path / "in").mkdir()
    for number in range(2):
        write_tar(tmp_path / "in" / f"{number}.tar", 6, seed=number, questions=2)

    places = [f"source.path={tmp_path}/in", f"output={tmp_path}/sound"]
    run_in_process(compose(*SETTINGS, "source=webdataset", *places), attempt=f"{time.time():.3f}")
    sound = lasting(rows(tmp_path / "sound"), "reducer")
    of_first = [row for row in sound if row["key"].startswith("000000")]
    refused, asked = of_first[2], of_first[-2]  # the second sample, and the last one, in the second unit
    last_key = next(row["sample_key"] for row in sound if row["key"].startswith("000001-00000004"))
    identity = identity_of(refused["image_sha256"], refused["question"])
    for group, text in (
        ("reducer", TRIM.replace("trim.Trim", "faulty.Picky") + f"refused: [{identity}]\n"),
        ("engine", f"_target_: faulty.Fragile\nword: '{asked['question'].partition(chr(10))[0]}'\n"),
        ("source", f"_target_: faulty.Buggy\npath: ???\nat: {last_key}\n"),
    ):
        (tmp_path / "conf" / group).mkdir(parents=True)
        (tmp_path / "conf" / group / "faulty.yaml").write_text(text)
    plug_ins = [f"{group}=faulty" for group in ("reducer", "engine", "source")]
    done = trimline(  # in a process of its own: workers of a Ray that runs already cannot import `faulty`
        *("annotate", f"--config-dir={tmp_path}/conf", *SETTINGS, *plug_ins),
        *(f"source.path={tmp_path}/in", f"output={tmp_path}/out"),
        PYTHONPATH=":".join(paths),
    )
    assert done.returncode == 1, done.stderr
    assert "1.tar): source Buggy raised AttributeError: no such thing" in done.stdout + done.stderr
    answered = lasting(rows(tmp_path / "out"), "reducer")
    assert [row["key"] for row in answered] == [row["key"] for row in sound if row["key"] < "000001-00000004"]
    failed = {row["key"]: row["error"] for row in answered if row["status"] != "ok"}
    expected = {
        row["key"]: "stage encode raised KeyError: 'not in my table'"
        for row in sound
        if row["sample_key"] == refused["sample_key"] and row["key"].startswith("000000")
    }
    device = "stage generate raised RuntimeError: CUDA error: device-side assert triggered"
    expected |= {row["key"]: device for row in sound if row["question"] == asked["question"]}
    assert failed == {key: error for key, error in expected.items() if key < "000001-00000004"}
    assert all(row == same for row, same in zip(answered, sound, strict=False) if row["status"] == "ok")
    footers = [footer for _, footer in read_units(tmp_path / "out").values()]
    assert [footer["shard_error"] for footer in footers if footer["shard_error"]] == [
        "source Buggy raised AttributeError: no such thing"
    ]
