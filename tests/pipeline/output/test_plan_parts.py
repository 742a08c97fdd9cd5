"""Test the plan's files: parts of a thousand shards, one growth of several writers, renewed lines."""

import dataclasses
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.output.own_folder import require_own_folder
from pipeline.output.plan import load_plan, require_plan
from pipeline.output.plan_growth import extend_plan, make_plan, share_plan
from pipeline.output.plan_parts import read_light
from pipeline.sources.images import Images
from pipeline.sources.jsonl import Jsonl
from pipeline.sources.webdataset import WebDataset
from pipeline.storage.uris import Storage
from pipeline.support.errors import ConfigError
from pipeline.support.schema import SHARDS
from tests.pipeline.output.test_plan import calls, out

HERE = Storage()


def tars(folder: Path, count: int, first: int = 0) -> WebDataset:
    """Make empty files that are listed as tars."""
    folder.mkdir(exist_ok=True)
    for number in range(first, first + count):
        (folder / f"{number:06d}.tar").touch()
    return WebDataset(path=str(folder))


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in (folder / "plan").iterdir())


def uris(plan) -> list[str]:
    return [shard.uri for shard in plan.shards(HERE)]


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    """Plan 2,300 tars, and then 1,100 more."""
    folder = tmp_path_factory.mktemp("long")
    source = tars(folder / "tars", 2_300)
    plan = make_plan(out(folder), source, None, HERE)
    tars(folder / "tars", 1_100, 2_300)
    return folder, plan, extend_plan(plan, source, HERE)


def test_parts_have_at_most_a_thousand_shards_and_each_is_found(long):
    folder, plan, grown = long
    found = names(folder / "out")
    assert len(plan) == 2_300 and len(plan.parts) == 3 and len(grown) == 3_400
    assert list(grown.parts) == found and grown.parts[:3] == plan.parts
    pattern = r"(000000|002300|(001000|002000|003300)-[0-9a-f]{16})\.parquet"
    assert all(re.fullmatch(pattern, name) for name in found) and len(found) == 5
    shards = list(grown.shards(HERE))
    assert [shard.shard for shard in shards] == list(range(3_400))
    assert [Path(shard.uri).name for shard in shards] == [f"{number:06d}.tar" for number in range(3_400)]
    for number in (0, 999, 1_000, 1_999, 2_000, 2_299, 2_300, 3_299, 3_300, 3_399):
        assert grown.shard(number, HERE) == shards[number]
        assert grown.line(number) == shards[number]
    assert load_plan(out(folder), HERE) == grown
    for among in (range(0), range(998, 2_301), range(2_000, 2_001), range(3_400)):
        assert [shard.shard for shard in grown.shards(HERE, among)] == list(among)


def test_finding_a_shard_costs_the_same_in_a_short_and_a_long_plan(long, tmp_path):
    short = make_plan(out(tmp_path), tars(tmp_path / "tars", 100), None, HERE)
    assert calls(lambda: long[2].shard(3_399, HERE)) == calls(lambda: short.shard(99, HERE))


def test_shards_of_many_files_are_row_groups_of_their_own_and_those_of_few_are_not(tmp_path):
    (tmp_path / "in").mkdir()
    for number in range(5_000):
        (tmp_path / "in" / f"{number:05d}.jpg").touch()
    for slice_files, expected in ((4_999, [1, 1]), (2_500, [2]), (4, [1_000, 250])):
        folder = tmp_path / f"out{slice_files}"
        plan = make_plan(
            f"file://{folder}", Images(path=str(tmp_path / "in"), slice_files=slice_files), None, HERE
        )
        groups = []
        for name in plan.parts:
            metadata = pq.read_metadata(folder / "plan" / name)
            groups += [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
            light, texts = read_light(*HERE.open(f"file://{folder}"), name), metadata.metadata
            assert (b"lines" in texts) == (metadata.num_row_groups > 1)
            read = pq.read_table(folder / "plan" / name, columns=light.table.column_names)
            assert light.table.equals(read.replace_schema_metadata(None)), "whether from the metadata or not"
        assert groups == expected
        assert [len(shard.files) for shard in plan.shards(HERE)][:-1] == [slice_files] * (len(plan) - 1)
        assert all(plan.shard(number, HERE).shard == number for number in range(0, len(plan), 50))


def test_a_killed_growth_is_no_part_of_the_plan(tmp_path):
    source = tars(tmp_path / "tars", 1_500)

    def kill() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_plan(out(tmp_path), source, None, HERE, before_commit=kill)
    (left,) = names(tmp_path / "out")
    assert left.startswith("001000-")
    assert load_plan(out(tmp_path), HERE) is None
    require_own_folder(out(tmp_path), HERE)
    (tmp_path / "tars" / "000003.tar").unlink()
    plan = make_plan(out(tmp_path), source, None, HERE)
    assert len(plan) == 1_499 and left not in plan.parts and len(names(tmp_path / "out")) == 3
    assert uris(plan) == sorted(f"file://{file}" for file in (tmp_path / "tars").iterdir())


def test_of_two_first_listings_one_is_the_plan(tmp_path):
    source = tars(tmp_path / "tars", 1_200)
    others = []

    def overtake() -> None:
        tars(tmp_path / "tars", 1, 5_000)
        others.append(make_plan(out(tmp_path), source, None, HERE))

    plan = make_plan(out(tmp_path), source, None, HERE, before_commit=overtake)
    assert plan == others[0] and len(plan) == 1_201, "who is first makes it, and the other one takes it"
    assert load_plan(out(tmp_path), HERE) == plan


class Overtaken(WebDataset):
    """Lists its files, and then lets another run extend the plan."""

    def entries(self, storage):
        yield from super().entries(storage)
        folder = Path(self.path)
        if not (folder / "000300.tar").exists():
            tars(folder, 2, 300)
            extend_plan(load_plan(out(folder.parent), HERE), WebDataset(path=self.path), HERE)
            tars(folder, 1, 400)


def test_of_two_extensions_both_are_in_the_plan_and_no_file_twice(tmp_path):
    source = tars(tmp_path / "tars", 3)
    plan = make_plan(out(tmp_path), source, None, HERE)
    tars(tmp_path / "tars", 1, 200)
    grown = extend_plan(plan, Overtaken(path=source.path), HERE)
    listed = [Path(uri).stem for uri in uris(grown)]
    assert listed == ["000000", "000001", "000002", "000200", "000300", "000301", "000400"]
    assert grown.parts == ("000000.parquet", "000003.parquet", "000006.parquet")


def test_a_renewed_line_is_laid_over_its_part(tmp_path):
    plan = make_plan(out(tmp_path), tars(tmp_path / "tars", 1_003), None, HERE)
    before = {name: (tmp_path / "out" / "plan" / name).read_bytes() for name in names(tmp_path / "out")}
    changed = {
        number: replace(plan.shard(number, HERE), size=number + 7, etag="new") for number in (0, 5, 6, 1_002)
    }
    for number, shard in changed.items():  # as two runs would, each from what it has loaded
        plan.renew({number: shard}, HERE)
    renewed = load_plan(out(tmp_path), HERE)
    assert all((tmp_path / "out" / "plan" / name).read_bytes() == data for name, data in before.items())
    assert names(tmp_path / "out") == sorted(
        [*before, *(f"renewed-{number:06d}.parquet" for number in changed)]
    )
    assert renewed.parts == plan.parts and renewed.listed.equals(plan.table)
    for number, shard in enumerate(renewed.shards(HERE)):
        assert shard == renewed.shard(number, HERE) == changed.get(number, plan.line(number))
        assert renewed.line(number) == shard and renewed.size(number) == shard.size
    assert [shard.shard for shard in renewed.shards(HERE, range(5, 8))] == [5, 6, 7]
    again = replace(changed[5], etag="newer")
    renewed.renew({5: again}, HERE)
    assert load_plan(out(tmp_path), HERE).shard(5, HERE) == again


def test_an_arms_output_gets_parts_growths_and_renewed_lines(long, tmp_path):
    folder, _, grown = long
    shutil.copytree(folder / "out", tmp_path / "out")
    grown = load_plan(out(tmp_path), HERE)
    grown.renew({2_301: replace(grown.line(2_301), etag="new")}, HERE)
    grown = load_plan(out(tmp_path), HERE)
    arm = f"file://{tmp_path}/arm"
    share_plan(grown, arm, HERE)
    shared = load_plan(arm, HERE)
    assert shared == replace(grown, folder=arm) and names(tmp_path / "arm") == names(tmp_path / "out")
    share_plan(grown, arm, HERE)
    for name in (*(name for name in grown.parts if name >= "0023"), "renewed-002301.parquet"):
        (tmp_path / "arm" / "plan" / name).unlink()
    assert len(load_plan(arm, HERE)) == 2_300
    share_plan(grown, arm, HERE)
    assert load_plan(arm, HERE) == shared


def test_lines_that_another_run_renews_matter_to_its_own_shards_alone(tmp_path):
    plan = make_plan(out(tmp_path), tars(tmp_path / "tars", 10), None, HERE)
    arm = f"file://{tmp_path}/arm"
    share_plan(plan, arm, HERE)
    plan.renew({4: replace(plan.line(4), etag="new")}, HERE)
    plan = load_plan(out(tmp_path), HERE)
    for among in (range(4), range(5, 10)):
        share_plan(plan, arm, HERE, among)
    for among in (None, range(4, 5)):
        with pytest.raises(ConfigError, match="were started on different listings of the source"):
            share_plan(plan, arm, HERE, among)


def test_a_part_that_is_gone_is_named(long, tmp_path):
    shutil.copytree(long[0] / "out", tmp_path / "out")
    gone = long[2].parts[1]
    (tmp_path / "out" / "plan" / gone).unlink()
    with pytest.raises(ConfigError, match=f"^output: a part of the plan is gone: plan/{gone}; restore it$"):
        require_plan(out(tmp_path), HERE)


def test_a_plan_of_an_earlier_release_is_read_and_extended(tmp_path):
    """Up to 0.1.0 a growth was one file, with row groups of ten thousand shards or of one."""
    source = tars(tmp_path / "tars", 1_500)
    shards = [
        dataclasses.asdict(shard) for shard in make_plan(out(tmp_path), source, None, HERE).shards(HERE)
    ]
    shutil.rmtree(tmp_path / "out")
    (tmp_path / "out" / "plan").mkdir(parents=True)
    lines = [{**shard, "files": None} for shard in shards]
    metadata = {"source": f"file://{tmp_path}/tars"}
    for first, stop in ((0, 1_400), (1_400, 1_500)):
        table = pa.Table.from_pylist(lines[first:stop], schema=SHARDS.with_metadata(metadata))
        pq.write_table(table, tmp_path / "out" / "plan" / f"{first:06d}.parquet", row_group_size=1_000)
    plan = load_plan(out(tmp_path), HERE)
    assert plan.parts == ("000000.parquet", "001400.parquet") and len(plan) == 1_500
    assert [plan.shard(number, HERE).shard for number in (0, 999, 1_000, 1_399, 1_400, 1_499)] == [
        *(0, 999, 1_000, 1_399, 1_400, 1_499)
    ]
    tars(tmp_path / "tars", 1, 9_000)
    assert extend_plan(plan, source, HERE).parts[2:] == ("001500.parquet",)


def test_the_census_and_the_further_parts_are_in_the_first_part_alone(long):
    folder, plan, _ = long
    part = read_light(*HERE.open(out(folder)), plan.parts[0])
    assert part.further == plan.parts[1:]
    assert all(read_light(*HERE.open(out(folder)), name).further == () for name in plan.parts[1:])
    metadata = pq.read_metadata(folder / "out" / "plan" / plan.parts[0]).metadata
    assert json.loads(metadata[b"parts"]) == list(plan.parts[1:])


def test_a_jsonl_of_many_slices_has_them_in_few_row_groups(tmp_path):
    lines = [{"question_id": number, "image": f"{number}.jpg", "text": "?"} for number in range(300)]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    plan = make_plan(out(tmp_path), Jsonl(path=str(tmp_path / "q.jsonl"), slice_files=1), None, HERE)
    assert len(plan) > 1
    assert pq.read_metadata(tmp_path / "out" / "plan" / plan.parts[0]).num_row_groups == 1
