"""`trimline convert`: a LLaVA checkpoint in its original layout, written as one of Hugging Face."""

from omegaconf import DictConfig

from jobs.common.build import build_fields, plain
from pipeline.support.errors import ConfigError

_KEYS = {"from": "source", "to": "target", "clip": "clip", "allow_pickle": "allow_pickle"}


def run(config: DictConfig) -> int:
    """Write the folder; returns the exit status."""
    from pipeline.models.checkpoints.convert import Conversion, convert

    given = plain(config)
    for key in ("from", "to"):
        if given[key] == "???":
            raise ConfigError(f"{key} must be given")
    told: Conversion = build_fields({_KEYS[key]: given[key] for key in _KEYS}, Conversion, "convert")
    try:
        convert(told)
    except OSError as error:
        raise ConfigError(f"to: {told.target} cannot be written: {error}") from error
    print(f"{told.target} is written; run it with model=llava_1_5_7b model.path={told.target}")
    return 0


if __name__ == "__main__":
    import sys

    from jobs.common.entry import command_line

    sys.exit(command_line("convert", sys.argv[1:]))
