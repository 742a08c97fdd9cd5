"""Sweeps: an output folder for each run, the first failure's status, a clean working directory."""

from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.common.configs import make_config
from tests.support.commands import begin


@dataclass
class Jobs:
    """Record the configurations of a sweep's jobs, and return the given statuses."""

    configs: list = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)

    def __call__(self, config) -> int:
        self.configs.append(make_config(config))
        return self.statuses.pop(0) if self.statuses else 0


@pytest.fixture
def jobs_run(monkeypatch) -> Jobs:
    """Run `annotate` only up to its frozen configuration."""
    jobs_run = Jobs()
    monkeypatch.setattr("jobs.annotate.run", jobs_run)
    return jobs_run


def files_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.mark.parametrize(
    "output", ["output=out", "++output=out", "output='a,b'", "output=s3://bucket/out", 'output="x y"']
)
@pytest.mark.parametrize("flags", [["-m"], ["--multirun"], ["hydra.mode=MULTIRUN"]], ids=" ".join)
def test_an_output_that_does_not_vary_is_refused_before_anything_runs(
    annotate, folder, jobs_run, flags, output
):
    before = files_below(folder)
    line = annotate.refused(*flags, "seed=0,1", output)
    assert "is the same for every run of the sweep" in line
    assert jobs_run.configs == []
    assert files_below(folder) == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("output", "folders"),
    [
        ("output=a,b", ["a", "a", "b", "b"]),
        ("output=out/${seed}", ["out/0", "out/1"]),
        ("output=choice(a,b)", ["a", "a", "b", "b"]),
    ],
)
def test_an_output_that_varies_is_used_as_it_is(annotate, jobs_run, output, folders):
    status, _, err = annotate("-m", "seed=0,1", output)
    assert (status, err) == (0, "")
    assert sorted(config.options.output for config in jobs_run.configs) == folders


@pytest.mark.slow
def test_by_default_a_sweep_has_a_folder_for_each_point(annotate, jobs_run):
    status, _, err = annotate("-m", "reducer=trim,full", "seed=0,1", "task=vqa")
    assert (status, err) == (0, "")
    outputs = [config.options.output for config in jobs_run.configs]
    assert outputs[0] == "output/reducer=trim,seed=0,task=vqa"
    assert len(set(outputs)) == 4
    assert [config.arms[0].name for config in jobs_run.configs] == ["trim", "trim", "full", "full"]


@pytest.mark.slow
def test_credentials_are_no_part_of_a_folder_s_name(annotate, jobs_run):
    annotate("-m", "seed=0,1", "storage.key=CANARY1", "storage.secret=CANARY2", "storage.token=CANARY3")
    assert [config.options.output for config in jobs_run.configs] == ["output/seed=0", "output/seed=1"]
    assert {config.storage.token for config in jobs_run.configs} == {"CANARY3"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("statuses", "expected"), [([0, 0, 0], 0), ([0, 3, 1], 3), ([1, 0, 2], 1), ([0, 0, 3], 3)]
)
def test_the_exit_status_is_the_first_that_is_not_0(annotate, jobs_run, statuses, expected):
    jobs_run.statuses[:] = statuses
    status, _, _ = annotate("-m", "seed=0,1,2")
    assert status == expected
    assert len(jobs_run.configs) == 3, "a run that failed does not stop the others"


def test_a_point_that_does_not_compose_stops_the_sweep_before_it_begins(annotate, jobs_run):
    assert "nope" in annotate.refused("-m", "reducer=full,nope")
    assert jobs_run.configs == []


@pytest.mark.slow
def test_every_wrong_point_is_reported(annotate, folder):
    before = files_below(folder)
    status, out, err = annotate("-m", "source.path=no,where", "output=out-${source.path}")
    assert (status, out) == (2, "")
    assert [line.rsplit(" ", 1)[1] for line in err.splitlines()] == ["no", "where"]
    assert {name for name in files_below(folder) - before if "/" in name} == set()


@pytest.mark.slow
@pytest.mark.parametrize("flags", [[], ["-m"]], ids=["single", "sweep"])
def test_nothing_is_written_to_the_working_directory(annotate, jobs_run, folder, flags, tmp_path_factory):
    temporary = tmp_path_factory.mktemp("temporary")
    before = files_below(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tempfile.tempdir", str(temporary))
        status, out, err = annotate(*flags, "seed=4,5" if flags else "seed=4", "source.path=pictures")
    assert (status, out, err) == (0, "", "")
    assert len(jobs_run.configs) == 1 + len(flags)
    assert files_below(folder) == before
    assert list(temporary.iterdir()) == [], "Hydra's record of a sweep is gone"
    assert Path.cwd() == folder


@pytest.mark.slow
def test_real_jobs_of_a_sweep_fail_one_by_one(annotate, folder):
    """Both jobs reach the summary, since files not written by Trimline look like finished units."""
    for seed in (0, 1):
        begin("source.path=pictures", f"seed={seed}", f"output=out/{seed}")
        (folder / "out" / str(seed) / "data").mkdir()
        unit = folder / "out" / str(seed) / "data" / "000000-00000000-00000003-end.parquet"
        pq.write_table(pa.table({"a": [1]}), unit)
    before = files_below(folder)
    status, out, err = annotate("-m", "source.path=pictures", "seed=0,1", "output=out/${seed}")
    assert (status, out) == (1, "")
    assert err.count("000000-00000000-00000003-end.parquet was not written by Trimline\n") == 2
    assert files_below(folder) == before
