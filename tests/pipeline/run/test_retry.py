"""Units that failed are made again, and whatever moment a kill falls into, the same command goes on."""

import json
import tarfile
from pathlib import Path

import pytest
from fsspec.implementations.local import LocalFileSystem

from pipeline.output.plan import load_plan
from pipeline.run.config import RunOptions
from pipeline.run.retry import delete_failed_units
from pipeline.sources.images import Images
from pipeline.sources.jsonl import Jsonl
from pipeline.sources.webdataset import WebDataset
from pipeline.storage.uris import canonical, put_atomic
from pipeline.support.errors import ConfigError, RunError
from tests.support.quick import HERE, lasting_rows, quick_answer, quick_prepare
from tests.support.tars import jpeg, write_tar

STATUSES = RunOptions(output="x").retry_statuses
ARMS = ("full", "trim")


def room(source, output, *arms, statuses=STATUSES):
    folders = [canonical(str(output / arm), HERE) for arm in arms or ("",)]
    delete_failed_units(folders, source, statuses, None, HERE)


def plan_of(output):
    return load_plan(canonical(str(output), HERE), HERE)


def stamps(output):
    return {str(f.relative_to(output)): f.stat().st_mtime_ns for f in output.rglob("data/*.parquet")}


@pytest.fixture
def table(tmp_path):
    """A JSONL of eight images; the third is not there."""
    lines = [{"question_id": i, "image": f"{i}.jpg", "text": f"what {i}?"} for i in range(8)]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for index in range(8):
        if index != 2:
            (tmp_path / f"{index}.jpg").write_bytes(jpeg(index, 24))
    return Jsonl(path=str(tmp_path / "q.jsonl"))


def test_an_image_that_is_there_by_now(tmp_path, table):
    quick_answer(table, tmp_path / "out", *ARMS, unit_samples=2)
    before = stamps(tmp_path / "out")
    assert [row["status"] for row in lasting_rows(tmp_path / "out" / "full")].count("bad_image") == 1
    (tmp_path / "2.jpg").write_bytes(jpeg(2, 24))
    room(table, tmp_path / "out", *ARMS, statuses=["failed"])
    assert stamps(tmp_path / "out") == before, "not of these statuses"
    room(table, tmp_path / "out", *ARMS)
    gone = {f"{arm}/data/000000-00000002-00000004.parquet" for arm in ARMS}
    assert stamps(tmp_path / "out") == {name: before[name] for name in before.keys() - gone}
    assert not list((tmp_path / "out").glob("*/_SUCCESS"))
    quick_answer(table, tmp_path / "out", *ARMS, unit_samples=2)
    quick_answer(table, tmp_path / "new", *ARMS, unit_samples=2)
    for arm in ARMS:
        assert lasting_rows(tmp_path / "out" / arm) == lasting_rows(tmp_path / "new" / arm)
        assert (tmp_path / "out" / arm / "_SUCCESS").exists()


def test_nothing_that_failed_is_nothing_to_do(tmp_path):
    source = WebDataset(path=str(write_tar(tmp_path / "a.tar", 3, width=24)))
    room(source, tmp_path / "out")
    quick_answer(source, tmp_path / "out")
    before = stamps(tmp_path / "out")
    room(source, tmp_path / "out")
    assert stamps(tmp_path / "out") == before and (tmp_path / "out" / "_SUCCESS").exists()


def break_off(path):
    """Cut a tar within its fifth sample; gives its bytes before."""
    whole = path.read_bytes()
    with tarfile.open(path) as tar:
        path.write_bytes(whole[: tar.getmember("000/000004.jpg").offset + 600])
    return whole


@pytest.fixture
def broken(tmp_path):
    """A tar that broke off and one that did not, answered in two arms; the first is mended and has more."""
    source = WebDataset(path=str(tmp_path / "tars"))
    write_tar(tmp_path / "tars" / "1.tar", 3, seed=1, width=24)
    break_off(write_tar(tmp_path / "tars" / "0.tar", 6, width=24))
    quick_answer(source, tmp_path / "out", *ARMS, unit_bytes=3000)
    assert not (tmp_path / "out" / "full" / "_SUCCESS").exists()
    write_tar(tmp_path / "tars" / "0.tar", 9, questions=2, width=40)
    quick_answer(source, tmp_path / "new", *ARMS, unit_bytes=3000)
    return source


def as_undisturbed(source, folder):
    quick_answer(source, folder / "out", *ARMS, unit_bytes=3000)
    for arm in ARMS:
        files = [sorted(f.name for f in (folder / out / arm / "data").iterdir()) for out in ("out", "new")]
        assert files[0] == files[1]
        assert lasting_rows(folder / "out" / arm) == lasting_rows(folder / "new" / arm)
        assert (folder / "out" / arm / "_SUCCESS").exists()


def test_a_tar_that_was_mended_is_made_again_whole(tmp_path, broken):
    before = stamps(tmp_path / "out")
    room(broken, tmp_path / "out", *ARMS)
    assert stamps(tmp_path / "out") == {name: at for name, at in before.items() if "/000001-" in name}
    as_undisturbed(broken, tmp_path)
    plans = [
        load_plan(canonical(str(tmp_path / out / arm), HERE), HERE) for out in ("out", "new") for arm in ARMS
    ]
    assert all(plan.table.equals(plans[0].table) and plan.parts == plans[0].parts for plan in plans)


@pytest.mark.parametrize("step", range(6))
def test_a_kill_at_any_step(tmp_path, broken, monkeypatch, step):
    """Before the step that deletes a file or renews a plan: the same command goes on."""
    steps = iter(range(100))

    def killed(does):
        def instead(*arguments, **more):
            if next(steps) >= step:
                raise KeyboardInterrupt
            return does(*arguments, **more)

        return instead

    with monkeypatch.context() as patch:
        patch.setattr("pipeline.run.retry.THREADS", 1)
        patch.setattr(LocalFileSystem, "rm_file", killed(LocalFileSystem.rm_file))
        patch.setattr("pipeline.output.plan.put_atomic", killed(put_atomic))
        try:
            room(broken, tmp_path / "out", *ARMS)
        except KeyboardInterrupt:
            assert next(steps) >= step
        else:
            pytest.fail(f"there are but {next(steps)} steps")
    assert not list((tmp_path / "out").glob("*/_SUCCESS"))
    assert any("/000000-" in name for name in stamps(tmp_path / "out")), "a reason is there until the end"
    room(broken, tmp_path / "out", *ARMS)
    as_undisturbed(broken, tmp_path)


def test_a_file_of_another_state_is_never_counted(tmp_path, broken):
    now = {shard.shard: shard for shard in broken.shards(broken.entries(HERE), HERE)}
    for arm in ARMS:
        plan_of(tmp_path / "out" / arm).renew({0: now[0]}, HERE)
    with pytest.raises(RunError, match=r"of shard 0 were made of another state of the shard than the plan's"):
        quick_answer(broken, tmp_path / "out", *ARMS, unit_bytes=3000)


def test_a_shard_that_is_gone_or_one_beside_it_that_changed_is_refused_by_name(tmp_path, broken):
    before = stamps(tmp_path / "out")
    second = tmp_path / "tars" / "1.tar"
    lost = next((tmp_path / "out" / "trim" / "data").glob("000001-*"))
    data = lost.read_bytes()
    lost.unlink()
    write_tar(second, 4, seed=1)
    with pytest.raises(ConfigError, match=rf"shard 1 has changed or is gone .*{second}"):
        room(broken, tmp_path / "out", *ARMS)
    lost.write_bytes(data)
    (tmp_path / "tars" / "0.tar").unlink()
    with pytest.raises(ConfigError, match=r"shard 0 has changed or is gone .*0\.tar"):
        room(broken, tmp_path / "out", *ARMS)
    assert stamps(tmp_path / "out").keys() == before.keys(), "nothing was deleted"


def test_a_part_of_a_jsonl_is_not_made_again_by_itself(tmp_path, table):
    source = Jsonl(path=table.path, slice_files=3)
    quick_answer(source, tmp_path / "out")
    before = stamps(tmp_path / "out")
    path = Path(table.path)
    path.write_text(path.read_text().replace("what 0?", "what on earth?"))
    with pytest.raises(ConfigError, match=r"shard 0 is a part of a file that has changed, .*q\.jsonl#0-"):
        room(source, tmp_path / "out")
    assert stamps(tmp_path / "out") == before


def test_an_image_of_a_folder_that_was_mended(tmp_path):
    for index in range(6):
        (tmp_path / "in" / f"{index}.jpg").parent.mkdir(exist_ok=True)
        (tmp_path / "in" / f"{index}.jpg").write_bytes(jpeg(index, 24))
        (tmp_path / "in" / f"{index}.json").write_text("{" if index == 1 else '{"question": "who?"}')
    source = Images(path=str(tmp_path / "in"), slice_files=3)
    quick_answer(source, tmp_path / "out", unit_samples=2)
    before = stamps(tmp_path / "out")
    (tmp_path / "in" / "1.json").write_text('{"questions": ["who?", "why?"]}')
    room(source, tmp_path / "out")
    assert stamps(tmp_path / "out") == {name: at for name, at in before.items() if "/000001-" in name}
    quick_answer(source, tmp_path / "out", unit_samples=2)
    quick_answer(source, tmp_path / "new", unit_samples=2)
    assert lasting_rows(tmp_path / "out") == lasting_rows(tmp_path / "new")
    assert not quick_prepare(source, tmp_path / "out", unit_samples=2).pending


def test_what_is_no_fault_cannot_be_retried():
    for status in ("ok", "odd"):
        with pytest.raises(ConfigError, match=f"retry_statuses: '{status}' is none of"):
            RunOptions(output="x", retry_statuses=[status])
