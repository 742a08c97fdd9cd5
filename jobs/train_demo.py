"""Runs `trimline train_demo`: trains the demo checkpoint, from where an earlier start stopped."""

from omegaconf import DictConfig

from jobs.common.build import build
from jobs.main import run_as_script
from pipeline.support.errors import ConfigError


def run(config: DictConfig) -> int:
    """Train, write both checkpoints and the report; returns the exit status."""
    from pipeline.support.plain_text import printable
    from pipeline.train_demo.config import Recipe
    from pipeline.train_demo.recipe import make_demo

    recipe = build(config, "recipe", Recipe)
    try:
        make_demo(recipe, lambda line: print(printable(line), flush=True))
    except OSError as error:
        raise ConfigError(f"recipe.work or recipe.output: {error}") from error
    return 0


if __name__ == "__main__":
    run_as_script(__file__)
