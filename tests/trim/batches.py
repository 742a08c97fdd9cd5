"""Make batches with every field filled in, and list every reducer."""

import dataclasses
from pathlib import Path

import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from trim import CDPruner, DivPrune, PruMerge, Random, Reducer, Trim, VisionZip, VisualTokens

CONF = Path(__file__).parents[2] / "conf" / "reducer"
KINDS = ("normal", "ties", "constant", "zeros", "repeated")


def configured() -> dict[str, Reducer]:
    """Build the reducers of `conf/`, by file name."""
    root = OmegaConf.create({"seed": 0, "model": {"trim_sign": -1}})
    for path in sorted(CONF.glob("*.yaml")):
        root[path.stem] = OmegaConf.load(path)
    return {path.stem: instantiate(root[path.stem]) for path in sorted(CONF.glob("*.yaml"))}


# Counts below the number of patches of a small image, so that the choice matters.
SMALL = {
    "random(5)": Random(num_kept=5),
    "trim(0.3)": Trim(keep_ratio=0.3),
    "trim(bare)": Trim(aggregate=False, normalize=True),
    "prumerge(3)": PruMerge(neighbours=3),
    "prumerge_plus(3)": PruMerge(plus=True, neighbours=3),
    "visionzip(4, 3)": VisionZip(4, 3),
    "visionzip(1, 0)": VisionZip(1, 0),
    "visionzip(2, 9)": VisionZip(2, 9),
    "divprune(5)": DivPrune(5),
    "cdpruner(5)": CDPruner(5),
}
EVERY = configured() | SMALL


def make(
    seed: int,
    images: int,
    patches: int,
    kind: str = "normal",
    *,
    width: int = 7,
    dtype: torch.dtype = torch.float32,
) -> VisualTokens:
    """Make a batch with all fields except `budget`.

    All fields except the metric have `dtype`; the attention looks like the output of a softmax.
    """
    g = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        if kind in ("zeros", "constant"):
            return torch.full(shape, float(kind == "constant"))
        if kind == "ties":
            return torch.randint(-1, 2, shape, generator=g).float()
        x = torch.randn(shape, generator=g)
        if kind == "repeated" and len(shape) > 1 and shape[1] == patches:
            x = x[:, torch.randint(0, (patches + 2) // 3, (patches,), generator=g)]
        return x

    def attention() -> torch.Tensor:
        if kind == "zeros":
            return torch.zeros(images, patches)
        return (draw(images, patches, 1)[..., 0] * 1.5).softmax(-1) * 0.9

    x = VisualTokens(
        patches=draw(images, patches, width),
        metric=draw(images, patches, width + 2),
        text=draw(images, width + 2),
        cls=draw(images, width),
        cls_attention=attention(),
        head_mean_keys=draw(images, patches, 5),
        last_cls_attention=attention(),
        last_keys=draw(images, patches, width),
        embeddings=draw(images, patches, width + 4),
        identity=torch.randint(-(2**62), 2**62, (images,), generator=g),
    )
    cast = {name: t.to(dtype) for name, t in fields(x).items() if t.is_floating_point() and name != "metric"}
    return dataclasses.replace(x, **cast)


def fields(x: VisualTokens) -> dict[str, torch.Tensor]:
    """List the fields that are not None, by name."""
    return {f.name: t for f in dataclasses.fields(x) if (t := getattr(x, f.name)) is not None}


def only(x: VisualTokens, images: list[int]) -> VisualTokens:
    """Copy these images of the batch, in this order."""
    return VisualTokens(**{name: t[images] for name, t in fields(x).items()})
