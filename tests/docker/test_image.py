"""The image's own steps in a plain shell: what is needed is in the wheel, and it runs from any directory.

An environment is made by the Dockerfile's commands, in their order, with its files and no others. The
packages that Trimline needs are lent to it by the environment of the tests; what changes the system (apt-get,
useradd) is left out.
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
PLACE = "/opt/trimline"  # of the environment in the image
PACKAGES = ("trim", "pipeline", "conf", "jobs")
READ_IN_THE_REPOSITORY = {
    "trim/README.md",
    "pipeline/report/images/kept.png",
    "pipeline/report/images/report.png",
}


@dataclass
class Image:
    """Where the environment lies, and what the Dockerfile says of running it."""

    place: Path
    folder: Path
    said: dict[str, str]

    def run(self, *command: str) -> subprocess.CompletedProcess:
        """A command as in a container: with nothing of the tests' own environment on its paths."""
        path = f"{self.place}/bin:/usr/local/bin:/usr/bin:/bin"
        own = {"PATH": path, "PYTHONPATH": "", "XDG_CACHE_HOME": f"{self.folder}/cache"}
        return run(list(command), self.folder, **own)

    def listed(self, instruction: str) -> list[str]:
        """The words of an instruction that has them as JSON."""
        text = self.said[instruction]
        return list(json.loads(text[text.index("[") :]))


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    folder = tmp_path_factory.mktemp("image")
    place, build = folder / "trimline", folder / "build"
    build.mkdir()
    said = {}
    for one in instructions(DOCKERFILES[0]):
        if one.name == "COPY" and one.stage == 0:
            copy(one.text.split(), build)
        elif one.name == "RUN" and one.stage == 0:
            install(one.text.replace(PLACE, str(place)), build, place)
        said[one.name] = one.text
    shutil.rmtree(build)  # the image does not have it either
    (folder / "work").mkdir()
    for name in PACKAGES:  # traps: folders of the user's own that are called like ours
        (folder / "work" / name).mkdir()
        (folder / "work" / name / "__init__.py").write_text("raise RuntimeError('the wrong package')\n")
    return Image(place, folder / "work", said)


def copy(names: list[str], build: Path) -> None:
    *sources, target = names
    for name in sources:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, build / target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(ROOT / name, build / target / name)


def install(command: str, build: Path, place: Path) -> None:
    """A RUN that makes the environment or installs into it; of what is lent to it, pip installs nothing."""
    if (place / "bin").is_dir():
        (site,) = place.glob("lib/python*/site-packages")
        lent = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
        (site / "lent.pth").write_text("".join(f"{path}\n" for path in lent))
    variables = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PIP_NO_DEPS": "1"}
    command = command.replace(" torch", " --dry-run torch")  # 200 MB that are lent, too
    subprocess.run(["sh", "-ec", command], cwd=build, env=os.environ | variables, check=True, timeout=500)


def data_files(root: Path) -> set[str]:
    """Every file of our packages below a folder but what Python makes of them."""
    found = (path for name in PACKAGES for path in (root / name).rglob("*") if path.is_file())
    return {str(path.relative_to(root)) for path in found if "__pycache__" not in path.parts}


def test_everything_in_the_packages_is_installed(image):
    (site,) = image.place.glob("lib/python*/site-packages")
    assert data_files(site) == data_files(ROOT) - READ_IN_THE_REPOSITORY
    assert {"pipeline/report/template/report.html", "conf/run.yaml"} <= data_files(site)


def test_its_healthcheck_is_healthy(image):
    assert image.run(*image.listed("HEALTHCHECK")).returncode == 0


def test_its_command_answers_in_a_folder_full_of_traps(image):
    command = image.listed("ENTRYPOINT") + image.listed("CMD")
    assert command == ["trimline", "annotate"]
    done = image.run(*command, "limit=2", "decoding.max_new_tokens=4", "task=caption", "device=cpu")
    assert done.returncode == 0, done.stderr
    rows = pq.read_table(image.folder / "output" / "data").to_pylist()
    assert [row["status"] for row in rows] == ["ok", "ok"] and all(row["prediction"] for row in rows)
    assert rows[0]["model"] == "demo", "the trained checkpoint came with the wheel"
    reported = image.run("trimline", "report", "output=output")
    assert reported.returncode == 0 and (image.folder / "output" / "report.html").is_file(), reported.stderr
    told = image.run("trimline", "status", "output=output")
    assert (told.returncode, told.stderr) == (0, "") and "state     finished" in told.stdout
