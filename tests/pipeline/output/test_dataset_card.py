"""Test the dataset card of an output: its text for hubs, and loading the folder with `datasets`."""

import datasets

from pipeline.compare.table import comparison_schema
from pipeline.output.dataset_card import write_card
from pipeline.output.manifest import load_manifest
from pipeline.output.summary import read_summary
from pipeline.sources.webdataset import WebDataset
from pipeline.support.schema import COLUMNS, PREDICTIONS
from tests.support.quick import HERE, quick_answer
from tests.support.tars import write_tar


def test_every_column_is_described():
    assert [column.name for column in COLUMNS] == PREDICTIONS.names
    assert [column.name for column in COLUMNS if len(column.description.split()) < 2] == []


def test_column_descriptions_are_not_written_to_the_files():
    for schema in (PREDICTIONS, comparison_schema(["full", "trim"])):
        assert schema.metadata is None and all(field.metadata is None for field in schema)


def test_a_folder_with_a_card_loads_by_its_path(tmp_path):
    write_tar(tmp_path / "in" / "a.tar", 5, questions=2)
    output = tmp_path / "out"
    quick_answer(WebDataset(path=str(tmp_path / "in")), output, unit_samples=2)
    summary = read_summary(str(output), HERE)
    assert summary is not None
    write_card(str(output), load_manifest(str(output), HERE), summary, HERE)
    text = (output / "README.md").read_text()
    assert "7 rows about 5 samples of `file://" in text
    assert '"schema_version"' in text
    for column in COLUMNS:
        assert f"| {column.name} | {column.field.type} | {column.description} |" in text
    loaded = datasets.load_dataset(str(output), split="train", cache_dir=str(tmp_path / "cache"))
    assert len(loaded) == 7
    assert loaded.column_names == PREDICTIONS.names
