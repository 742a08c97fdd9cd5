"""Test runs over links, of outputs from before the setting too, below a source, and over several paths."""

import json

import pytest

from pipeline.output.opened import open_output
from pipeline.run.prepare import prepare
from pipeline.storage.uris import Storage
from pipeline.support.errors import ConfigError
from tests.support.commands import compose
from tests.support.tars import jpeg

HERE = Storage()


@pytest.fixture
def start(tmp_path):
    """Make a folder with a picture and a link to another; returns a function that begins a run there."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "a.jpg").write_bytes(jpeg(0))
    (tmp_path / "pool.jpg").write_bytes(jpeg(1))
    (source / "b.jpg").symlink_to("../pool.jpg")

    def begin(*overrides: str, output: str = "output"):
        common = [f"source.path={source}", f"output={tmp_path / output}", "device=cpu", "task=caption"]
        return prepare(compose(*common, *overrides))

    return begin


def planned(prepared) -> list[str]:
    return [file.uri.rpartition("/")[2] for shard in prepared.plan.shards(HERE) for file in shard.own_files]


def make_older(output) -> None:
    """Take the setting out of run.json, as releases before it wrote that."""
    tree = json.loads((output / "run.json").read_text())
    del tree["configuration"]["source"]["follow_links"]
    (output / "run.json").write_text(json.dumps(tree))


@pytest.mark.slow
def test_the_setting_counts_only_where_it_is_set(start, tmp_path):
    assert planned(start()) == ["a.jpg"]
    tree = json.loads((tmp_path / "output/run.json").read_text())
    assert "source.follow_links" not in tree["counted"]
    assert planned(start("source.follow_links=true", output="followed")) == ["a.jpg", "b.jpg"]
    with pytest.raises(ConfigError, match=r"source\.follow_links was null, is true"):
        start("source.follow_links=true")
    with pytest.raises(ConfigError, match=r"source\.follow_links was true, is null"):
        start(output="followed")


def test_an_older_output_over_links_is_read_and_continued(start, tmp_path):
    first = start("source.follow_links=true")
    tree = json.loads((tmp_path / "output/run.json").read_text())
    assert tree["counted"].pop("source.follow_links") is True
    (tmp_path / "output/run.json").write_text(json.dumps(tree))
    make_older(tmp_path / "output")
    assert planned(start("source.follow_links=true")) == planned(first) == ["a.jpg", "b.jpg"]
    with pytest.raises(ConfigError, match=r"b\.jpg; a link leads to it: source\.follow_links=true"):
        start()
    questions = open_output(str(tmp_path / "output"), HERE).questions()
    assert questions.source.follow_links
    assert [file.uri.rpartition("/")[2] for file in questions.entries()] == ["a.jpg", "b.jpg"]


def test_an_older_output_without_links_is_continued_as_it_is(start, tmp_path):
    (tmp_path / "source/b.jpg").unlink()
    first = start()
    make_older(tmp_path / "output")
    for overrides in ([], ["source.follow_links=true"]):
        assert start(*overrides).states[0].manifest.fingerprint == first.states[0].manifest.fingerprint


@pytest.mark.slow
def test_an_output_below_its_source_is_never_listed(start, tmp_path):
    for _ in range(2):
        prepared = start("extend=true", output="source/out")
        assert planned(prepared) == ["a.jpg"]
    (tmp_path / "source/c.jpg").write_bytes(jpeg(2))
    assert planned(start("extend=true", output="source/out")) == ["a.jpg", "c.jpg"]
    assert planned(start(output="source/second")) == ["a.jpg", "c.jpg"], "the other output is passed over"
    (questions,) = [open_output(str(tmp_path / "source/second"), HERE).questions()]
    assert [file.uri.rpartition("/")[2] for file in questions.entries()] == ["a.jpg", "c.jpg"]


def test_a_run_over_several_paths(start, tmp_path):
    (tmp_path / "more").mkdir()
    (tmp_path / "more/z.jpg").write_bytes(jpeg(3))
    paths = f"source.path=[{tmp_path}/source,{tmp_path}/more]"
    other_order = f"source.path=[{tmp_path}/more,{tmp_path}/source]"
    assert planned(start(paths)) == ["z.jpg", "a.jpg"]
    assert planned(start(other_order)) == ["z.jpg", "a.jpg"]
    assert planned(start(f"source.path='{tmp_path}/{{more,source}}'", output="braces")) == ["z.jpg", "a.jpg"]
    with pytest.raises(ConfigError, match=r"source\.path: nothing at .*/none"):
        start(f"source.path=[{tmp_path}/more,{tmp_path}/none]", output="third")
    with pytest.raises(ConfigError, match="belongs to the source"):
        start(f"source.path={tmp_path}")


def test_another_folder_is_appended_and_then_a_part_of_the_source(start, tmp_path):
    (tmp_path / "more").mkdir()
    (tmp_path / "more/z.jpg").write_bytes(jpeg(3))
    start()
    grown = start(f"source.path={tmp_path}/more", "extend=true")
    assert planned(grown) == ["a.jpg", "z.jpg"]
    assert planned(start()) == planned(start(f"source.path={tmp_path}/more")) == ["a.jpg", "z.jpg"]
    questions = open_output(str(tmp_path / "output"), HERE).questions()
    assert len(list(questions.entries())) == 2, "verify deep=true finds all of them"
