"""Test retrying failed units, and that after a kill at any moment the same command continues."""

import json
import os
import tarfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from fsspec.implementations.local import LocalFileSystem

from pipeline.output.plan import load_plan
from pipeline.run.config import RunOptions
from pipeline.run.retry import delete_failed_units
from pipeline.sources.base import files_of
from pipeline.sources.images import Images
from pipeline.sources.jsonl import Jsonl
from pipeline.sources.webdataset import WebDataset
from pipeline.storage.uris import canonical, write_atomic
from pipeline.support.errors import ConfigError, RunError
from tests.support.quick import HERE, lasting_rows, quick_answer, quick_prepare
from tests.support.tars import jpeg, write_tar

STATUSES = RunOptions(output="x").retry_statuses
ARMS = ("full", "trim")


def delete_failed(source, output, *arms, statuses=STATUSES):
    folders = [canonical(str(output / arm), HERE) for arm in arms or ("",)]
    delete_failed_units(folders, source, statuses, None, HERE)


def plan_of(output):
    return load_plan(canonical(str(output), HERE), HERE)


def stamps(output):
    return {str(f.relative_to(output)): f.stat().st_mtime_ns for f in output.rglob("data/*.parquet")}


@pytest.fixture
def table(tmp_path):
    """Write a JSONL of eight images, of which the third is missing."""
    lines = [{"question_id": i, "image": f"{i}.jpg", "text": f"what {i}?"} for i in range(8)]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for index in range(8):
        if index != 2:
            (tmp_path / f"{index}.jpg").write_bytes(jpeg(index, 24))
    return Jsonl(path=str(tmp_path / "q.jsonl"))


def test_an_image_that_was_missing_and_exists_now_is_retried(tmp_path, table):
    quick_answer(table, tmp_path / "out", *ARMS, unit_samples=2)
    stamps_before = stamps(tmp_path / "out")
    assert [row["status"] for row in lasting_rows(tmp_path / "out" / "full")].count("bad_image") == 1
    (tmp_path / "2.jpg").write_bytes(jpeg(2, 24))
    delete_failed(table, tmp_path / "out", *ARMS, statuses=["failed"])
    assert stamps(tmp_path / "out") == stamps_before, "no unit failed with these statuses"
    delete_failed(table, tmp_path / "out", *ARMS)
    deleted = {f"{arm}/data/000000-00000002-00000004.parquet" for arm in ARMS}
    assert stamps(tmp_path / "out") == {name: stamps_before[name] for name in stamps_before.keys() - deleted}
    assert not list((tmp_path / "out").glob("*/_SUCCESS"))
    quick_answer(table, tmp_path / "out", *ARMS, unit_samples=2)
    quick_answer(table, tmp_path / "new", *ARMS, unit_samples=2)
    for arm in ARMS:
        assert lasting_rows(tmp_path / "out" / arm) == lasting_rows(tmp_path / "new" / arm)
        assert (tmp_path / "out" / arm / "_SUCCESS").exists()


def test_without_failures_nothing_is_deleted(tmp_path):
    source = WebDataset(path=str(write_tar(tmp_path / "a.tar", 3, width=24)))
    delete_failed(source, tmp_path / "out")
    quick_answer(source, tmp_path / "out")
    stamps_before = stamps(tmp_path / "out")
    delete_failed(source, tmp_path / "out")
    assert stamps(tmp_path / "out") == stamps_before and (tmp_path / "out" / "_SUCCESS").exists()


def break_off(path):
    """Cut a tar within its fifth sample; returns its bytes from before the cut."""
    data = path.read_bytes()
    with tarfile.open(path) as tar:
        path.write_bytes(data[: tar.getmember("000/000004.jpg").offset + 600])
    return data


@pytest.fixture
def broken(tmp_path):
    """Answer a truncated tar and a sound one in two arms, then replace the truncated one by a longer one."""
    source = WebDataset(path=str(tmp_path / "tars"))
    write_tar(tmp_path / "tars" / "1.tar", 3, seed=1, width=24)
    break_off(write_tar(tmp_path / "tars" / "0.tar", 6, width=24))
    quick_answer(source, tmp_path / "out", *ARMS, unit_bytes=3000)
    assert not (tmp_path / "out" / "full" / "_SUCCESS").exists()
    write_tar(tmp_path / "tars" / "0.tar", 9, questions=2, width=40)
    quick_answer(source, tmp_path / "new", *ARMS, unit_bytes=3000)
    return source


def assert_as_undisturbed(source, folder):
    quick_answer(source, folder / "out", *ARMS, unit_bytes=3000)
    for arm in ARMS:
        files = [sorted(f.name for f in (folder / out / arm / "data").iterdir()) for out in ("out", "new")]
        assert files[0] == files[1]
        assert lasting_rows(folder / "out" / arm) == lasting_rows(folder / "new" / arm)
        assert (folder / "out" / arm / "_SUCCESS").exists()


def test_all_units_of_a_repaired_tar_are_made_again(tmp_path, broken):
    stamps_before = stamps(tmp_path / "out")
    delete_failed(broken, tmp_path / "out", *ARMS)
    assert stamps(tmp_path / "out") == {name: at for name, at in stamps_before.items() if "/000001-" in name}
    assert_as_undisturbed(broken, tmp_path)
    plans = [
        load_plan(canonical(str(tmp_path / out / arm), HERE), HERE) for out in ("out", "new") for arm in ARMS
    ]
    assert all(plan.table.equals(plans[0].table) and plan.parts == plans[0].parts for plan in plans)


@pytest.mark.slow
@pytest.mark.parametrize("step", range(6))
def test_a_kill_at_any_step(tmp_path, broken, monkeypatch, step):
    """The kill comes before a file is deleted or a plan renewed; the same command then continues."""
    steps = iter(range(100))

    def killed(does):
        def counted_call(*arguments, **options):
            if next(steps) >= step:
                raise KeyboardInterrupt
            return does(*arguments, **options)

        return counted_call

    with monkeypatch.context() as patch:
        patch.setattr("pipeline.run.retry.THREADS", 1)
        patch.setattr(LocalFileSystem, "rm_file", killed(LocalFileSystem.rm_file))
        patch.setattr("pipeline.output.plan_parts.write_atomic", killed(write_atomic))
        try:
            delete_failed(broken, tmp_path / "out", *ARMS)
        except KeyboardInterrupt:
            assert next(steps) >= step
        else:
            pytest.fail(f"there are only {next(steps)} steps")
    assert not list((tmp_path / "out").glob("*/_SUCCESS"))
    assert any("/000000-" in name for name in stamps(tmp_path / "out")), (
        "some file of the failed shard remains until the end"
    )
    delete_failed(broken, tmp_path / "out", *ARMS)
    assert_as_undisturbed(broken, tmp_path)


def test_units_of_another_state_of_the_shard_are_refused(tmp_path, broken):
    current = {shard.shard: shard for shard in broken.shards(files_of(broken, HERE), HERE)}
    for arm in ARMS:
        plan_of(tmp_path / "out" / arm).renew({0: current[0]}, HERE)
    with pytest.raises(RunError, match=r"of shard 0 were made of another state of the shard than the plan's"):
        quick_answer(broken, tmp_path / "out", *ARMS, unit_bytes=3000)


def test_missing_and_changed_shards_are_refused_by_name(tmp_path, broken):
    stamps_before = stamps(tmp_path / "out")
    second = tmp_path / "tars" / "1.tar"
    deleted = next((tmp_path / "out" / "trim" / "data").glob("000001-*"))
    data = deleted.read_bytes()
    deleted.unlink()
    write_tar(second, 4, seed=1)
    with pytest.raises(ConfigError, match=rf"shard 1 has changed or is gone .*{second}"):
        delete_failed(broken, tmp_path / "out", *ARMS)
    deleted.write_bytes(data)
    (tmp_path / "tars" / "0.tar").unlink()
    with pytest.raises(ConfigError, match=r"shard 0 has changed or is gone .*0\.tar"):
        delete_failed(broken, tmp_path / "out", *ARMS)
    assert stamps(tmp_path / "out").keys() == stamps_before.keys(), "nothing was deleted"


def test_one_slice_of_a_changed_jsonl_is_not_retried_alone(tmp_path, table):
    source = Jsonl(path=table.path, slice_files=3)
    quick_answer(source, tmp_path / "out")
    stamps_before = stamps(tmp_path / "out")
    path = Path(table.path)
    path.write_text(path.read_text().replace("what 0?", "what on earth?"))
    with pytest.raises(ConfigError, match=r"shard 0 is a part of a file that has changed, .*q\.jsonl#0-"):
        delete_failed(source, tmp_path / "out")
    assert stamps(tmp_path / "out") == stamps_before


def test_a_repaired_sidecar_in_a_folder_is_retried(tmp_path):
    for index in range(6):
        (tmp_path / "in" / f"{index}.jpg").parent.mkdir(exist_ok=True)
        (tmp_path / "in" / f"{index}.jpg").write_bytes(jpeg(index, 24))
        (tmp_path / "in" / f"{index}.json").write_text("{" if index == 1 else '{"question": "who?"}')
    source = Images(path=str(tmp_path / "in"), slice_files=3)
    quick_answer(source, tmp_path / "out", unit_samples=2)
    stamps_before = stamps(tmp_path / "out")
    (tmp_path / "in" / "1.json").write_text('{"questions": ["who?", "why?"]}')
    delete_failed(source, tmp_path / "out")
    assert stamps(tmp_path / "out") == {name: at for name, at in stamps_before.items() if "/000001-" in name}
    quick_answer(source, tmp_path / "out", unit_samples=2)
    quick_answer(source, tmp_path / "new", unit_samples=2)
    assert lasting_rows(tmp_path / "out") == lasting_rows(tmp_path / "new")
    assert not quick_prepare(source, tmp_path / "out", unit_samples=2).pending


def test_only_failed_statuses_can_be_retried():
    for status in ("ok", "odd"):
        with pytest.raises(ConfigError, match=f"retry_statuses: '{status}' is none of"):
            RunOptions(output="x", retry_statuses=[status])


@dataclass(frozen=True, kw_only=True)
class Unlisted(WebDataset):
    """A source so large that listing it takes too long."""

    def entries(self, storage):
        raise AssertionError("it is listed")


def test_the_source_is_not_listed_and_no_footer_of_sound_shards_is_read(tmp_path):
    tars = tmp_path / "tars"
    for number in range(42):
        write_tar(tars / f"{number:02d}.tar", 6 if number == 7 else 1, seed=0, width=24)
    whole = break_off(tars / "07.tar")
    quick_answer(WebDataset(path=str(tars)), tmp_path / "out", unit_bytes=3000)
    (tars / "07.tar").write_bytes(whole)
    before = stamps(tmp_path / "out")
    failed = {name for name in before if "/000007-" in name}
    for name in before.keys() - failed:
        (tmp_path / "out" / name).write_bytes(b"no Parquet")
        os.utime(tmp_path / "out" / name, (1, 1))  # older than the sums of its shard
    delete_failed(Unlisted(path=str(tars)), tmp_path / "out")
    assert failed and stamps(tmp_path / "out").keys() == before.keys() - failed
    assert plan_of(tmp_path / "out").renewed.keys() == {7}
