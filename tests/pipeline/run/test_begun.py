"""Test two first starts at once: the second one takes the plan, or is refused if it is of another run."""

import shutil
from dataclasses import dataclass, replace

import pytest

from pipeline.output.manifest import load_manifest
from pipeline.output.plan import load_plan
from pipeline.run.prepare import prepare
from pipeline.sources.webdataset import WebDataset
from pipeline.storage.uris import Storage, canonical
from pipeline.support.errors import ConfigError
from tests.support.runs import make_config
from tests.support.tars import write_tar

HERE = Storage()
OTHERS = []  # configurations that begin while the source is listed


@dataclass(frozen=True, kw_only=True)
class Overtaken(WebDataset):
    """Lists its files, and meanwhile another run begins the same output."""

    def entries(self, storage):
        yield from super().entries(storage)
        while OTHERS:
            prepare(OTHERS.pop())


@pytest.fixture
def overtaken(tmp_path, random_checkpoint):
    """Make a configuration that is overtaken, and the same one with a plain source."""
    for number in range(3):
        write_tar(tmp_path / "in" / f"{number}.tar", 2, seed=number, width=24)
    plain = make_config(random_checkpoint, WebDataset(path=str(tmp_path / "in")), tmp_path / "out")
    yield replace(plain, source=Overtaken(path=plain.source.path)), plain
    OTHERS.clear()


def plan_in(tmp_path):
    return load_plan(canonical(str(tmp_path / "out"), HERE), HERE)


def test_a_run_of_another_configuration_does_not_take_the_plan(tmp_path, overtaken):
    config, plain = overtaken
    kind = replace(
        plain, source=Overtaken(path=plain.source.path)
    )  # the fingerprint counts the source's kind
    OTHERS.append(replace(kind, limits=replace(plain.limits, unit_samples=1)))
    with pytest.raises(ConfigError, match=r"was made with another configuration: unit_samples was 1, is 64"):
        prepare(config)
    assert load_manifest(str(tmp_path / "out"), HERE).counted["unit_samples"] == 1
    assert len(plan_in(tmp_path)) == 3


def test_a_run_of_another_source_is_refused(tmp_path, overtaken):
    config, plain = overtaken
    shutil.copytree(tmp_path / "in", tmp_path / "other")
    (tmp_path / "other" / "2.tar").unlink()
    OTHERS.append(replace(plain, source=Overtaken(path=str(tmp_path / "other"))))
    with pytest.raises(ConfigError, match=rf"belongs to the source file://{tmp_path}/other, not file://"):
        prepare(config)
    assert len(plan_in(tmp_path)) == 2


def test_an_equal_run_goes_on_with_the_plan(tmp_path, overtaken):
    config, plain = overtaken
    OTHERS.append(replace(plain, source=Overtaken(path=plain.source.path)))
    prepared = prepare(config)
    assert prepared.pending == [0, 1, 2] and prepared.plan == plan_in(tmp_path)
    assert prepared.run_id == load_manifest(str(tmp_path / "out"), HERE).run_id
