"""Test that files of an output, which may be somebody else's, name no code, no hub and no other folder."""

import json
import sys

import pytest

from pipeline.models import hub
from pipeline.models.checkpoints.folders import resolve
from pipeline.output.manifest import Manifest, load_manifest, rebuild
from pipeline.output.opened import outputs_at
from pipeline.output.targets import trust_folder
from pipeline.report.write import _read_comparison
from pipeline.sources.images import Images
from pipeline.storage.uris import Storage
from pipeline.support.errors import ConfigError

EVIL = """
from dataclasses import dataclass
from pathlib import Path

Path(__file__).with_name("ran").touch()


@dataclass(frozen=True)
class Evil:
    path: str = ""
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Write a module that leaves a mark when it is imported; returns its folder."""
    (tmp_path / "evil_module.py").write_text(EVIL)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("evil_module", None)


@pytest.mark.parametrize(
    "target",
    [
        *(
            "evil_module.Evil",
            "os.system",
            "this.Zen",
            "antigravity.Fly",
            "",
            "x",
            "trim",
            "pipeline.sources",
        ),
        *("pipeline.sources..x", "trim.x;y", None, 3, ["trim.Trim"], {"a": 1}),
    ],
)
def test_a_class_that_no_configuration_names_is_not_imported(module, target):
    with pytest.raises(ConfigError, match=r"run\.json names the class .*--config-dir"):
        rebuild({"_target_": target, "path": "p"})
    assert not (module / "ran").exists()


def test_a_folder_of_the_users_own_may_name_it(module):
    conf = module / "conf" / "source"
    conf.mkdir(parents=True)
    (conf / "evil.yaml").write_text("_target_: evil_module.Evil\npath: ???\n")
    trust_folder(module / "conf")
    assert rebuild({"_target_": "evil_module.Evil", "path": "p"}).path == "p"
    assert (module / "ran").exists()


def test_our_own_classes_are_made():
    assert isinstance(rebuild({"_target_": "pipeline.sources.images.Images", "path": "p"}), Images)
    assert rebuild({"_target_": "trim.Full"}).__class__.__name__ == "Full"


def test_the_hub_is_not_asked_for_a_model_that_a_file_names(tmp_path, monkeypatch):
    import huggingface_hub

    def refuse(*arguments: object, local_files_only: bool, **options: object) -> str:
        if not local_files_only:
            raise AssertionError("the hub was asked")
        raise FileNotFoundError("not in the cache")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    with hub.without_hub():
        with pytest.raises(ConfigError, match=r"nobody/nothing.*does not ask the model hub"):
            resolve("nobody/nothing")
        with pytest.raises(ConfigError, match="does not ask the model hub"):
            hub.hub_file(hub.HubId("nobody/nothing"), "config.json")
    with pytest.raises(AssertionError, match="was asked"):
        resolve("nobody/nothing")


@pytest.mark.parametrize(
    "arms",
    [
        *({"../other": {}}, {"/abs": {}}, {"a/b": {}}, {"..": {}}, {".": {}}, {"": {}}, {"a\\b": {}}),
        *(["../other"], [1], "../other", {"a\0": {}}, {"s3://b": {}}, {"a": {}, "../b": {}}),
    ],
    ids=str,
)
def test_a_comparison_names_no_folder_but_its_own(tmp_path, arms):
    (tmp_path / "comparison.json").write_text(json.dumps({"arms": arms, "baseline": "../other"}))
    with pytest.raises(ConfigError, match=r"comparison\.json"):
        outputs_at(str(tmp_path), Storage())
    with pytest.raises(ConfigError, match=r"comparison\.json"):
        _read_comparison(str(tmp_path), Storage())


@pytest.mark.parametrize("content", ["", "[]", "{}", "[" * 100_000, '{"arms": 3}'])
def test_a_damaged_comparison_is_one_line(tmp_path, content):
    (tmp_path / "comparison.json").write_text(content)
    with pytest.raises(ConfigError, match=r"comparison\.json"):
        outputs_at(str(tmp_path), Storage())


@pytest.mark.parametrize(
    "content",
    ['{"configuration": [], "counted": {}}', '{"configuration": {}, "counted": 3}', "[" * 200_000],
)
def test_a_run_json_that_is_none_is_one_line(tmp_path, content):
    if content.startswith("{"):
        names = ("run_id", "fingerprint", "schema_version", "versions")
        content = json.dumps(dict.fromkeys(names) | json.loads(content))
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(ConfigError, match="is damaged or of another version"):
        load_manifest(str(tmp_path), Storage())


def test_numbers_without_end_are_one_line(tmp_path):
    manifest = Manifest("", "", 1, {}, {"max_questions": float("inf")}, {})
    with (
        pytest.raises(ConfigError, match="of another version"),
        manifest.explaining_errors("o", Storage()) as settings,
    ):
        int(settings["max_questions"])
