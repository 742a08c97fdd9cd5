"""`trimline train_demo`: rebuild the demo checkpoint, or go on where an earlier start stopped."""

from omegaconf import DictConfig

from jobs.common.build import build
from pipeline.support.errors import ConfigError


def run(config: DictConfig) -> int:
    """Train, write both checkpoints and the report; returns the exit status."""
    from pipeline.train_demo.config import Recipe
    from pipeline.train_demo.recipe import make_demo

    recipe: Recipe = build(config, "recipe", Recipe)
    try:
        make_demo(recipe, lambda line: print(line, flush=True))
    except OSError as error:
        raise ConfigError(f"recipe.work or recipe.output: {error}") from error
    return 0


if __name__ == "__main__":
    import sys

    from jobs.common.entry import command_line

    sys.exit(command_line("train_demo", sys.argv[1:]))
