"""Runs `trimline convert`: writes a LLaVA checkpoint of the original layout in that of Hugging Face."""

from omegaconf import DictConfig

from jobs.common.build import build_fields, to_dict
from jobs.main import run_as_script
from pipeline.support.errors import ConfigError

_FIELDS = {"from": "source", "to": "target", "clip": "clip", "allow_pickle": "allow_pickle"}


def run(config: DictConfig) -> int:
    """Write the folder; returns the exit status."""
    from pipeline.models.checkpoints.convert import Conversion, convert
    from pipeline.support.plain_text import printable

    keys = to_dict(config)
    for key in ("from", "to"):
        if keys[key] == "???":
            raise ConfigError(f"{key} must be given")
    options = build_fields({_FIELDS[key]: keys[key] for key in _FIELDS}, Conversion, "convert")
    try:
        convert(options)
    except OSError as error:
        raise ConfigError(f"to: {options.target} cannot be written: {error}") from error
    place = printable(options.target)
    print(f"{place} is written; run it with model=llava_1_5_7b model.path={place}")
    return 0


if __name__ == "__main__":
    run_as_script(__file__)
