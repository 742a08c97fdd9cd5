"""The Dockerfile's steps install all files of the packages, and a command that is healthy.

What the installed command does is tested in tests/jobs/test_shadow.py.
"""

from pathlib import Path

from tests.docker.files import ROOT
from tests.support.installed import PACKAGES

# Pages beside rooms, and their pictures.
READ_IN_THE_REPOSITORY = {
    *(str(page.relative_to(ROOT)) for page in (*ROOT.glob("trim/*.md"), *ROOT.glob("pipeline/*/README.md"))),
    "pipeline/report/images/kept.png",
    "pipeline/report/images/report.png",
}


def data_files(root: Path) -> set[str]:
    """List all files of our packages below a folder, without __pycache__."""
    paths = (path for name in PACKAGES for path in (root / name).rglob("*") if path.is_file())
    return {str(path.relative_to(root)) for path in paths if "__pycache__" not in path.parts}


def test_everything_in_the_packages_is_installed(installed):
    (site,) = installed.place.glob("lib/python*/site-packages")
    assert data_files(site) == data_files(ROOT) - READ_IN_THE_REPOSITORY
    assert {"pipeline/report/template/report.html", "conf/run.yaml"} <= data_files(site)


def test_its_healthcheck_is_healthy(installed):
    assert installed.run(*installed.listed("HEALTHCHECK")).returncode == 0


def test_the_image_annotates_by_default(installed):
    assert installed.listed("ENTRYPOINT") + installed.listed("CMD") == ["trimline", "annotate"]
