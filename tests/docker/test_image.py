"""The Dockerfile's steps, run in a plain shell, give an installation that works from any directory.

The steps run in order and with the copied files only. The packages that Trimline needs come from the
environment of the tests; steps that change the system (apt-get, useradd) are left out.
"""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.docker.files import DOCKERFILES, ROOT, instructions
from tests.support.processes import run

pytestmark = pytest.mark.slow
PLACE = "/opt/trimline"  # the environment's path in the image
PACKAGES = ("trim", "pipeline", "conf", "jobs")
# Pages beside rooms, and their pictures.
READ_IN_THE_REPOSITORY = {
    *(str(page.relative_to(ROOT)) for page in (*ROOT.glob("trim/*.md"), *ROOT.glob("pipeline/*/README.md"))),
    "pipeline/report/images/kept.png",
    "pipeline/report/images/report.png",
}


@dataclass
class Image:
    """The installed environment, a working folder, and the Dockerfile's last instruction of each kind."""

    place: Path
    folder: Path
    settings: dict[str, str]

    def run(self, *command: str) -> subprocess.CompletedProcess:
        """Run a command without the paths of the tests' environment, as in a container."""
        path = f"{self.place}/bin:/usr/local/bin:/usr/bin:/bin"
        environment = {"PATH": path, "PYTHONPATH": "", "XDG_CACHE_HOME": f"{self.folder}/cache"}
        return run(list(command), self.folder, **environment)

    def listed(self, instruction: str) -> list[str]:
        """Return the words of an instruction in JSON form."""
        text = self.settings[instruction]
        return list(json.loads(text[text.index("[") :]))


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    folder = tmp_path_factory.mktemp("image")
    place, build = folder / "trimline", folder / "build"
    build.mkdir()
    settings = {}
    for instruction in instructions(DOCKERFILES[0]):
        if instruction.name == "COPY" and instruction.stage == 0:
            copy(instruction.text.split(), build)
        elif instruction.name == "RUN" and instruction.stage == 0:
            install(instruction.text.replace(PLACE, str(place)), build, place)
        settings[instruction.name] = instruction.text
    shutil.rmtree(build)  # the image does not contain the build folder
    (folder / "work").mkdir()
    for name in PACKAGES:  # traps: folders of the user with the names of our packages
        (folder / "work" / name).mkdir()
        (folder / "work" / name / "__init__.py").write_text("raise RuntimeError('the wrong package')\n")
    return Image(place, folder / "work", settings)


def copy(names: list[str], build: Path) -> None:
    *sources, target = names
    for name in sources:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, build / target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(ROOT / name, build / target / name)


def install(command: str, build: Path, place: Path) -> None:
    """Run a RUN instruction; packages of the tests' environment are shared, not installed again."""
    if (place / "bin").is_dir():
        (site,) = place.glob("lib/python*/site-packages")
        shared = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
        (site / "shared.pth").write_text("".join(f"{path}\n" for path in shared))
    variables = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PIP_NO_DEPS": "1"}
    command = command.replace(" torch", " --dry-run torch")  # 200 MB, shared as well
    subprocess.run(["sh", "-ec", command], cwd=build, env=os.environ | variables, check=True, timeout=500)


def data_files(root: Path) -> set[str]:
    """List all files of our packages below a folder, without __pycache__."""
    paths = (path for name in PACKAGES for path in (root / name).rglob("*") if path.is_file())
    return {str(path.relative_to(root)) for path in paths if "__pycache__" not in path.parts}


def test_everything_in_the_packages_is_installed(image):
    (site,) = image.place.glob("lib/python*/site-packages")
    assert data_files(site) == data_files(ROOT) - READ_IN_THE_REPOSITORY
    assert {"pipeline/report/template/report.html", "conf/run.yaml"} <= data_files(site)


def test_its_healthcheck_is_healthy(image):
    assert image.run(*image.listed("HEALTHCHECK")).returncode == 0


def test_the_installed_command_ignores_packages_of_the_working_directory(image):
    command = image.listed("ENTRYPOINT") + image.listed("CMD")
    assert command == ["trimline", "annotate"]
    result = image.run(*command, "limit=2", "decoding.max_new_tokens=4", "task=caption", "device=cpu")
    assert result.returncode == 0, result.stderr
    rows = pq.read_table(image.folder / "output" / "data").to_pylist()
    assert [row["status"] for row in rows] == ["ok", "ok"] and all(row["prediction"] for row in rows)
    assert rows[0]["model"] == "demo", "the trained checkpoint came with the wheel"
    reported = image.run("trimline", "report", "output=output")
    assert reported.returncode == 0 and (image.folder / "output" / "report.html").is_file(), reported.stderr
    status = image.run("trimline", "status", "output=output")
    assert (status.returncode, status.stderr) == (0, "") and "state     finished" in status.stdout
