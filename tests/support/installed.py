"""Install Trimline by the Dockerfile's steps, run in a plain shell.

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

from tests.docker.files import DOCKERFILES, ROOT, instructions
from tests.support.processes import run

PLACE = "/opt/trimline"  # the environment's path in the image
PACKAGES = ("trim", "pipeline", "conf", "jobs")


@dataclass
class Installed:
    """The installed environment, a working folder, and the Dockerfile's last instruction of each kind.

    The working folder holds packages with the names of ours, which must not be imported instead of ours.
    """

    place: Path
    folder: Path
    settings: dict[str, str]

    def run(self, *command: str, **environment: str) -> subprocess.CompletedProcess:
        """Run a command without the paths of the tests' environment, as in a container."""
        path = f"{self.place}/bin:/usr/local/bin:/usr/bin:/bin"
        own = {"PATH": path, "PYTHONPATH": "", "XDG_CACHE_HOME": f"{self.folder.parent}/cache"}
        return run(list(command), self.folder, **own, **environment)

    def listed(self, instruction: str) -> list[str]:
        """Return the words of an instruction in JSON form."""
        text = self.settings[instruction]
        return list(json.loads(text[text.index("[") :]))


def make(folder: Path) -> Installed:
    """Run the steps of the Dockerfile below a folder."""
    place, build, work = folder / "trimline", folder / "build", folder / "work"
    build.mkdir()
    settings = {}
    for instruction in instructions(DOCKERFILES[0]):
        if instruction.name == "COPY" and instruction.stage == 0:
            _copy(instruction.text.split(), build)
        elif instruction.name == "RUN" and instruction.stage == 0:
            _install(instruction.text.replace(PLACE, str(place)), build, place)
        settings[instruction.name] = instruction.text
    shutil.rmtree(build)  # the image does not contain the build folder
    for name in PACKAGES:
        (work / name).mkdir(parents=True)
        (work / name / "__init__.py").write_text("raise RuntimeError('the wrong package')\n")
    return Installed(place, work, settings)


def _copy(names: list[str], build: Path) -> None:
    *sources, target = names
    for name in sources:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, build / target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(ROOT / name, build / target / name)


def _install(command: str, build: Path, place: Path) -> None:
    """Run a RUN instruction; packages of the tests' environment are shared, not installed again."""
    if (place / "bin").is_dir():
        (site,) = place.glob("lib/python*/site-packages")
        shared = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
        (site / "shared.pth").write_text("".join(f"{path}\n" for path in shared))
    variables = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PIP_NO_DEPS": "1"}
    command = command.replace(" torch", " --dry-run torch")  # 200 MB, shared as well
    subprocess.run(["sh", "-ec", command], cwd=build, env=os.environ | variables, check=True, timeout=500)
