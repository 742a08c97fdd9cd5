"""Says which classes may be made from the run.json of an output, which somebody else may have written.

Importing a module runs its code. So a file that is read names no module, but one of the classes that the
configurations of this installation name, or those in a folder that the user's own command gives.
"""

import re
from functools import cache
from pathlib import Path

from pipeline.support.errors import ConfigError

_CONF = Path(__file__).resolve().parents[2] / "conf"
_TARGET = re.compile(r"\b_target_: *['\"]?([\w.]+)")
_OURS = re.compile(r"(pipeline\.sources|trim)(\.\w+)+")  # modules without effects, in this installation
_folders = {_CONF}
_names: set[str] = set()


def trust_folder(folder: Path) -> None:
    """Let the classes that the YAML files below a folder name be made, too."""
    _folders.add(folder.resolve())


def trust_class(target: str) -> None:
    """Let a class be made that the configuration of this process names."""
    _names.add(target)


def require_trusted(target: object) -> str:
    """Return the name of a class that a run.json gives; ConfigError if no configuration names it."""
    if isinstance(target, str):
        is_named = target in _names or any(target in _named_in(folder) for folder in _folders)
        if is_named or _OURS.fullmatch(target):
            return target
    raise ConfigError(
        f"run.json names the class {target!r}, which no configuration here names; if you trust it, give "
        "--config-dir=FOLDER with the YAML file that names it, as the run was given"
    )


@cache
def _named_in(folder: Path) -> frozenset[str]:
    files = sorted(folder.rglob("*.yaml")) if folder.is_dir() else []
    return frozenset(name for file in files for name in _TARGET.findall(file.read_text(errors="replace")))
