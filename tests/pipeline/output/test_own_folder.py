"""An output folder that holds what others wrote is refused before anything is written into it."""

import json
from pathlib import Path

import pytest

from pipeline.output.dataset_card import write_card
from pipeline.output.manifest import load_manifest
from pipeline.output.own_folder import require_begun_or_empty, require_own_folder
from pipeline.output.summary import read_summary
from pipeline.sources.webdataset import WebDataset
from pipeline.support.errors import ConfigError
from tests.support.quick import HERE, quick_answer, quick_prepare
from tests.support.s3 import BUCKET
from tests.support.tars import write_tar


def write(folder: Path, *names: str) -> Path:
    for name in names:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("/"):
            file.mkdir(exist_ok=True)
        else:
            file.write_text("mine")
    return folder


FOREIGN = [
    ["README.md"],
    ["summary.json", "data/train.parquet"],
    ["data/000000-00000000-00000002-end.parquet"],
    ["report.html"],
    ["photos/1.jpg"],
    ["empty/"],
    ["x\n\x1b[2J.txt"],
    ["comparison.json"],
]
FREE = [[], [".DS_Store"], [".git/config"], ["lost+found/"], [".probe"], [".run.json." + "0" * 32 + ".tmp"]]
FREE += [["plan/.000000.parquet." + "0" * 32 + ".tmp", ".DS_Store"]]


@pytest.mark.parametrize("names", FOREIGN, ids=" ".join)
@pytest.mark.parametrize("holds_arms", [False, True])
def test_files_of_others_are_named_in_one_line(tmp_path, names, holds_arms):
    with pytest.raises(ConfigError, match="holds files, but no output of Trimline") as refused:
        require_own_folder(str(write(tmp_path, *names)), HERE, holds_arms=holds_arms)
    assert str(refused.value).isprintable()
    assert names[0].partition("/")[0].partition("\n")[0] in str(refused.value)


@pytest.mark.parametrize("names", FREE, ids=" ".join)
def test_hidden_files_and_those_of_a_killed_writer_do_not_count(tmp_path, names):
    require_own_folder(str(write(tmp_path, *names)), HERE)
    require_own_folder(str(tmp_path / "new"), HERE)


@pytest.fixture
def source(tmp_path):
    return WebDataset(path=str(write_tar(tmp_path / "in" / "a.tar", 3)))


@pytest.mark.parametrize("left", [["run.json"], ["plan"], ["run.json", "plan"]], ids=" ".join)
def test_a_first_start_that_was_killed_goes_on(tmp_path, source, left):
    output = tmp_path / "out"
    quick_prepare(source, output)
    for name in ("run.json", "plan"):
        if name not in left:
            (output / name).rename(tmp_path / name)
    require_own_folder(str(output), HERE)


def test_files_beside_an_output_are_left_alone(tmp_path, source):
    output = tmp_path / "out"
    quick_prepare(source, output)
    write(output, "note.txt", "a.ipynb", "exported/train.parquet")
    require_own_folder(str(output), HERE)
    quick_answer(source, output)
    assert (output / "note.txt").read_text() == "mine"


def test_outputs_below_the_folder(tmp_path, source):
    """Beside a sweep's outputs an output may be begun; beside the arms of a comparison others may lie."""
    quick_answer(source, tmp_path / "arms", "full", "trim")
    require_own_folder(str(tmp_path / "arms"), HERE)
    write(tmp_path / "arms", "comparison.json", "report.html", "note.txt", "notes/1.txt")
    require_own_folder(str(tmp_path / "arms"), HERE, holds_arms=True)
    with pytest.raises(ConfigError, match=r"Trimline: comparison.json, note.txt, notes, \.\.\.; choose"):
        require_own_folder(str(tmp_path / "arms"), HERE)


def test_a_folder_that_is_begun_with_one_name(tmp_path):
    """As those of `train_demo` are."""
    free = [tmp_path / "new", write(tmp_path / "a", ".hidden"), write(tmp_path / "b", "clip/", "README.md")]
    for folder in free:
        require_begun_or_empty("recipe.output", str(folder), "clip")
    with pytest.raises(ConfigError, match=r"^recipe.output: .* holds files of others: README.md; choose"):
        require_begun_or_empty("recipe.output", str(write(tmp_path / "c", "README.md")), "clip")


def test_a_prefix_of_a_bucket(s3):
    fs, _ = s3.open(f"s3://{BUCKET}")
    fs.pipe(f"{BUCKET}/foreign/photos/1.jpg", b"mine")
    fs.pipe(f"{BUCKET}/folder/", b"")
    for free in ("nothing", "folder"):
        require_own_folder(f"s3://{BUCKET}/{free}", s3)
    with pytest.raises(ConfigError, match="Trimline: photos;"):
        require_own_folder(f"s3://{BUCKET}/foreign", s3)


@pytest.fixture
def finished(tmp_path, source):
    """A finished output, and a function that writes its card."""
    output = tmp_path / "out"
    quick_answer(source, output)
    parts = str(output), load_manifest(str(output), HERE), read_summary(str(output), HERE), HERE
    return output, lambda: write_card(*parts)


def test_the_card_is_written_again_as_long_as_nobody_has_changed_it(finished):
    output, write_again = finished
    assert write_again() and write_again()
    card = output / "README.md"
    card.write_text(card.read_text().replace("by Trimline", "by Trimline, and by me"))
    edited = card.read_text()
    assert not write_again() and card.read_text() == edited
    card.write_text(edited + "\nMore.\n")
    assert not write_again()
    card.unlink()
    assert write_again()


@pytest.mark.parametrize("text", ["", "# My answers\n", "---\nconfigs:\n---\n# Mine\n", "\xff"])
def test_a_readme_of_others_is_kept(finished, text):
    output, write_again = finished
    (output / "README.md").write_bytes(text.encode("latin-1"))
    assert not write_again()
    assert (output / "README.md").read_bytes() == text.encode("latin-1")


def test_a_card_of_an_earlier_release_is_replaced(finished):
    output, write_again = finished
    assert write_again()
    card = output / "README.md"
    body, _, _ = card.read_text().rstrip().rpartition("\n\n")
    card.write_text(f"{body}\n")
    assert write_again() and "<!-- Written by Trimline" in card.read_text()
    assert json.loads(card.read_text().partition("```json\n")[2].partition("```")[0])["schema_version"]
