"""Test run.json: the counted settings, differences between runs, and no credentials."""

import dataclasses
import json

import pytest

from pipeline.output.manifest import make_manifest, require_same_run
from pipeline.storage.uris import Storage
from pipeline.support.errors import ConfigError
from pipeline.support.schema import SCHEMA_VERSION

HERE = Storage()
COUNTED = {"seed": 0, "model": {"template": "a", "weights": "1f"}, "task": {"prompts": ["b", "c"]}}


def test_the_fingerprint_depends_only_on_the_counted_settings():
    manifest = make_manifest("file:///out", COUNTED, {"anything": 1})
    reordered = make_manifest("file:///out", dict(reversed(COUNTED.items())), {"anything": 2})
    assert (manifest.fingerprint, manifest.run_id) == (reordered.fingerprint, reordered.run_id)
    assert manifest.counted == {
        "schema_version": SCHEMA_VERSION,
        "seed": 0,
        "model.template": "a",
        "model.weights": "1f",
        "task.prompts": ["b", "c"],
    }
    elsewhere = make_manifest("file:///other", COUNTED, {})
    assert elsewhere.fingerprint == manifest.fingerprint, (
        "the fingerprint does not depend on the output's place"
    )
    assert elsewhere.run_id != manifest.run_id


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"seed": 0.0},
        {"seed": None},
        {"model": {"template": "a", "weights": "2f"}},
        {"model": {"template": "a"}},
        {"task": {"prompts": ["c", "b"]}},
        {"task": {"prompts": ["b", "c"], "suffix": ""}},
    ],
    ids=str,
)
def test_every_change_of_a_counted_setting_changes_the_fingerprint(change):
    assert make_manifest("o", COUNTED | change, {}).fingerprint != make_manifest("o", COUNTED, {}).fingerprint


def test_the_first_start_writes_run_json_and_later_ones_keep_it(tmp_path):
    manifest = make_manifest(f"file://{tmp_path}", COUNTED, {"source": {"path": "a"}})
    require_same_run(str(tmp_path), manifest, HERE)
    content = (tmp_path / "run.json").read_bytes()
    assert json.loads(content) == dataclasses.asdict(manifest)
    require_same_run(
        str(tmp_path), dataclasses.replace(manifest, configuration={"source": {"path": "b"}}), HERE
    )
    assert (tmp_path / "run.json").read_bytes() == content, "the first run's configuration stays"


def test_a_difference_is_reported_by_name_with_both_values(tmp_path):
    require_same_run(str(tmp_path), make_manifest("o", COUNTED, {}), HERE)
    changed = {"seed": 7, "model": {"template": "x" * 200, "weights": "1f"}, "task": {"prompts": ["b", "c"]}}
    with pytest.raises(ConfigError) as refusal:
        require_same_run(str(tmp_path), make_manifest("o", changed, {}), HERE)
    assert "seed was 0, is 7" in str(refusal.value)
    assert 'model.template was "a", is "xxx' in str(refusal.value)
    assert "weights" not in str(refusal.value) and "task" not in str(refusal.value)
    assert len(str(refusal.value)) < 400 and "\n" not in str(refusal.value)


def test_many_differences_are_counted(tmp_path):
    require_same_run(str(tmp_path), make_manifest("o", {f"a{index}": 0 for index in range(9)}, {}), HERE)
    with pytest.raises(ConfigError, match=r"a4 was 0, is 1; and 4 more"):
        require_same_run(str(tmp_path), make_manifest("o", {f"a{index}": 1 for index in range(9)}, {}), HERE)


def test_new_and_missing_fields_are_reported(tmp_path):
    require_same_run(str(tmp_path), make_manifest("o", {"old": 1}, {}), HERE)
    with pytest.raises(ConfigError, match="new was null, is 2; old was 1, is null"):
        require_same_run(str(tmp_path), make_manifest("o", {"new": 2}, {}), HERE)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"run_id": 1}', '"a"', "null"])
def test_a_damaged_run_json_is_refused(tmp_path, content):
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(ConfigError, match=r"run\.json in .* is damaged or of another version"):
        require_same_run(str(tmp_path), make_manifest("o", COUNTED, {}), HERE)


def test_run_json_holds_no_credentials(tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_SESSION_TOKEN", "CANARY-1")
    storage = Storage(key="CANARY-2", secret="CANARY-3")
    settings = {"url": "http://user:CANARY-4@host", "a": ["CANARY-1", "CANARY-2"], "b": "x CANARY-3"}
    require_same_run(str(tmp_path), make_manifest("o", COUNTED, settings), storage)
    text = (tmp_path / "run.json").read_text()
    assert "CANARY" not in text
    assert json.loads(text)["configuration"]["a"] == ["***", "***"]


def test_versions_are_recorded():
    versions = make_manifest("o", {}, {}).versions
    assert versions.keys() >= {"python", "trimline", "torch", "transformers", "ray", "pyarrow"}
    assert "unknown" not in versions.values()
