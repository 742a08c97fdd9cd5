"""`trimline report`: the report of a real output, and a picture of the patches kept by two reducers."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jobs.common.entry import run_command
from pipeline.demo.scenes import make_sample
from pipeline.run.in_process import run_in_process
from tests.support.commands import compose

KEY = "000000-00000001-0001"
SAMPLES = [make_sample("test", 0, index) for index in range(16)]
SCENES = [sample for sample in SAMPLES if sample.scene.canvas == (336, 336)]  # the model sees these uncropped


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """Two scenes, answered by the random model under TRIM and under all tokens."""
    folder = tmp_path_factory.mktemp("report")
    (folder / "in").mkdir()
    for index in range(2):
        SCENES[index].image.save(folder / "in" / f"{index}.png")
        (folder / "in" / f"{index}.txt").write_text("What color is the ring?")
    for reducer in ("trim", "full"):
        run_in_process(
            compose(
                f"source.path={folder}/in",
                f"output={folder}/{reducer}",
                f"reducer={reducer}",
                "model=random",
                "device=cpu",
                "decoding.max_new_tokens=3",
            )
        )
    return folder


def report(outputs, *overrides: str) -> int:
    chosen = f"picture.outputs=[{outputs}/trim,{outputs}/full]"
    return run_command("report", [chosen, f"picture.file={outputs}/kept.png", *overrides])


def test_kept_patches_are_lit_and_the_others_dark(outputs, capsys):
    assert report(outputs, f"picture.key={KEY}") == 0
    assert capsys.readouterr().out.strip() == f"{outputs}/kept.png"
    picture = np.asarray(Image.open(outputs / "kept.png").convert("RGB"), np.int16)
    scene = np.asarray(SCENES[1].image)
    assert picture.shape[1] == 2 * 336 + 3 * 8
    top = picture.shape[0] - 336 - 80
    trim, full = (picture[top : top + 336, left : left + 336] for left in (8, 8 + 336 + 8))
    assert (full == scene).all(), "all tokens: nothing is dimmed"
    lit = (trim == scene).all(-1).reshape(24, 14, 24, 14).all((1, 3))
    assert 0 < lit.sum() < 300
    dark = ~lit
    assert trim.reshape(24, 14, 24, 14, 3).mean((1, 3, 4))[dark].max() < 0.25 * 255


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("picture.key=000000-00000009-0000", "has no request 000000-00000009-0000"),
        ("picture.key=nonsense", "'nonsense' is not of the form 000000-00000000-0000"),
        ("picture.outputs=[/nowhere]", "is no output of Trimline: it has no run.json"),
        ("picture.outputs=[]", "picture.outputs must not be empty"),
        ("picture.file=/nowhere/kept.png", "picture.file: "),
    ],
)
def test_wrong_options_are_refused_in_one_line(outputs, capsys, override, message):
    key = [] if override.startswith("picture.key") else [f"picture.key={KEY}"]
    assert report(outputs, *key, override) == 2
    line = capsys.readouterr().err
    assert message in line and line.count("\n") == 1


def test_a_missing_image_is_reported(outputs, capsys):
    image = outputs / "in" / "1.png"
    data = image.read_bytes()
    image.unlink()
    try:
        assert report(outputs, f"picture.key={KEY}") == 2
        assert f"the image of {KEY} cannot be read any more" in capsys.readouterr().err
    finally:
        image.write_bytes(data)


def test_the_report_of_an_output(outputs, capsys):
    assert run_command("report", [f"output={outputs}/trim/", "report.gallery=1", "report.seed=1"]) == 0
    paths = capsys.readouterr().out.split()
    assert paths == [f"{outputs}/trim/report.html", f"{outputs}/trim/report.txt"]
    html, text = (Path(path).read_text() for path in paths)
    assert "1 of 4 requests, chosen at random;" in html and '"question":' in html
    assert html.count("data:image/webp") == 1
    assert "trim: Answered from" in text and "4 of 4" in text


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "output, picture: give output=FOLDER for a report, or picture.outputs"),
        (["output={0}/trim", "picture.outputs=[{0}/trim]", f"picture.key={KEY}"], "and not both"),
        (["picture.outputs=[{0}/trim]"], "picture.key must be given"),
        (["output=/nowhere"], "/nowhere is no output of Trimline: it has no run.json"),
        (["output={0}/in"], "is no output of Trimline"),
        (["output={0}/trim", "report.gallery=-1"], "report.gallery must not be negative"),
        (["output={0}/trim", "report.gallery=many"], "report.gallery: "),
        (["output={0}/trim", "report.seed=-1"], "report.seed must not be negative"),
    ],
)
def test_wrong_report_options_are_refused_in_one_line(outputs, capsys, overrides, message):
    assert run_command("report", [override.format(outputs) for override in overrides]) == 2
    line = capsys.readouterr().err
    assert message in line and line.count("\n") == 1


def test_the_report_needs_no_torch(outputs):
    code = (
        "import sys\nfrom jobs.common.entry import run_command\n"
        f"assert run_command('report', ['output={outputs}/trim']) == 0\n"
        "print(sorted({'torch', 'transformers', 'ray'} & set(sys.modules)))\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"
