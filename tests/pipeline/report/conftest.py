"""Fixtures of the report's tests: real outputs, a real comparison of them, and a real browser."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.compare.compare import compare_outputs
from pipeline.report.write import write_report_files
from pipeline.run.in_process import run_in_process
from pipeline.storage.uris import Storage
from tests.pipeline.report.browser import Page, start
from tests.pipeline.report.compared import ARMS, PRICE, configure, make_inputs


@pytest.fixture(scope="session")
def outputs(tmp_path_factory: pytest.TempPathFactory, random_checkpoint: Path) -> Path:
    """A compared folder with one output per arm; later one image was deleted and one changed."""
    folder = tmp_path_factory.mktemp("report") / "compared"
    inputs = folder.parent / "in"
    make_inputs(inputs)
    run_in_process(configure(inputs, folder, random_checkpoint))
    compare_outputs(
        {name: str(folder / name) for name in ARMS},
        place=str(folder),
        storage=Storage(),
        baseline="full",
        pricing=PRICE,
        resamples=50,
    )
    (inputs / "002.png").unlink()
    shutil.copy(inputs / "000.png", inputs / "003.png")
    return folder


@pytest.fixture(scope="session")
def comparison(outputs: Path) -> Path:
    """A folder like that of a finished `trimline compare`, with its report."""
    write_report_files(str(outputs), Storage(), gallery=200, seed=0)
    return outputs


@pytest.fixture(scope="session")
def run(outputs: Path) -> Path:
    """A single run with its report."""
    write_report_files(str(outputs / "trim"), Storage(), gallery=200, seed=0)
    return outputs / "trim"


@pytest.fixture(scope="session")
def chromium() -> Iterator[Page]:
    """One headless Chromium for all tests."""
    if shutil.which("chromium") is None or shutil.which("chromedriver") is None:
        pytest.skip("needs Debian's packages chromium and chromium-driver")
    with start() as page:
        yield page
