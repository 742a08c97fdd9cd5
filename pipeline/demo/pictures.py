"""Makes the pictures behind `demo:pictures`: drawn scenes and photographs, with questions."""

import dataclasses
import importlib.util
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.support.cache import cached
from pipeline.support.errors import ConfigError

if TYPE_CHECKING:
    from pipeline.sources.base import Source

PICTURES = "demo:pictures"
SCENES = 24  # of the test split, beside the photographs
_PICTURES_VERSION = 4
_QUESTIONS = Path(__file__).with_name("photographs.json")


def resolve_source(source: "Source") -> "Source":
    """Replace the path `demo:pictures` of a source by the folder of the pictures."""
    if source.path == PICTURES:
        return dataclasses.replace(source, path=str(pictures()))
    return source


def pictures() -> Path:
    """Make the folder of `scenes/` (test split) and `photographs/` (scikit-image's), once.

    Raises:
        ConfigError: scikit-image is not installed.
    """
    return cached(f"pictures-v{_PICTURES_VERSION}", _make_pictures)


def _make_pictures(folder: Path) -> None:
    photographs = _photographs()
    (folder / "photographs").mkdir()
    for name, questions in json.loads(_QUESTIONS.read_text()).items():
        shutil.copyfile(photographs / name, folder / "photographs" / name)
        (folder / "photographs" / name).with_suffix(".json").write_text(json.dumps({"questions": questions}))
    from pipeline.demo.scenes import make_sample

    (folder / "scenes").mkdir()
    for index in range(SCENES):
        sample = make_sample("test", 0, index)
        (folder / "scenes" / f"{sample.key}.jpg").write_bytes(sample.jpeg())
        (folder / "scenes" / f"{sample.key}.json").write_text(json.dumps(sample.sidecar()))


def _photographs() -> Path:
    package = importlib.util.find_spec("skimage")
    if package is None or package.origin is None:
        raise ConfigError(
            f"source.path={PICTURES} shows scikit-image's photographs, too: pip install 'trimline[demo]', "
            "or name a folder of your own"
        )
    return Path(package.origin).parent / "data"
