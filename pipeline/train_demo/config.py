"""Configures the training of the demo checkpoint."""

from dataclasses import dataclass

from pipeline.support.fields import free, require


@dataclass(frozen=True, kw_only=True)
class TowerRecipe:
    """Configures stage (a): steps on crowded pictures, but every `ordinary_every`-th on ordinary ones.

    `matrix_learning_rate` is for the matrices of layers, `learning_rate` for all other weights.
    """

    steps: int = free(4000)
    pictures: int = free(5)
    ordinary_every: int = free(4)
    learning_rate: float = free(1e-3)
    matrix_learning_rate: float = free(0.02)


@dataclass(frozen=True, kw_only=True)
class LanguageRecipe:
    """Stage (b): `steps` on some patches of each picture, then `mixed_steps` on all and on reduced tokens.

    A second round (`drawn_*`) does the same with new questions, more of them of the hard kinds.
    """

    steps: int = free(1500)
    mixed_steps: int = free(500)
    drawn_steps: int = free(700)
    drawn_mixed_steps: int = free(300)
    drawn_pictures: int = free(14)
    pictures: int = free(24)
    shown: int = free(96)
    full_pictures: int = free(4)
    reduced_rows: int = free(48)
    learning_rate: float = free(1.5e-3)
    matrix_learning_rate: float = free(0.02)

    @property
    def first_round(self) -> int:
        """The number of the first round's steps."""
        return self.steps + self.mixed_steps


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Holds all settings that the weights depend on, and the folders to write.

    `work` holds rendered pictures and the state of training, `output` gets `clip/` and `llava/`.
    """

    work: str = free()
    output: str = free()
    template: str = free()
    seed: int = free(0)
    device: str = free("auto")
    train_pictures: int = free(10_000)
    dense_pictures: int = free(6_000)
    val_pictures: int = free(500)
    probed_pictures: int = free(100)
    reported_pictures: int = free(200)
    validate_every: int = free(250)
    tower: TowerRecipe = free(default_factory=TowerRecipe)
    language: LanguageRecipe = free(default_factory=LanguageRecipe)

    def __post_init__(self) -> None:
        most = max(self.tower.pictures, self.language.pictures, self.language.full_pictures)
        require(self.train_pictures >= most, f"train_pictures must be at least {most}, as many as in a step")
        require(self.dense_pictures >= self.tower.pictures, "dense_pictures must be at least tower.pictures")
        require(0 < self.probed_pictures <= self.val_pictures, "probed_pictures must be in [1, val_pictures]")
