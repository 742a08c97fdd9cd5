"""Composes random scenes of objects with known attributes and places.

Lengths are in pixels of a picture whose short side is 336; `draw` scales them to the real size.
"""

from dataclasses import dataclass
from itertools import product

import numpy as np

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
COLORS = ("red", "green", "blue", "yellow", "purple", "orange", "black", "white")
SIZES = ("small", "large")
TEXTURES = ("solid", "striped")
BACKGROUNDS = ("gradient", "noise", "texture")
# Outside the test split these are never shown, described or asked about as present.
HELD_OUT = (("red", "star"), ("blue", "cross"), ("yellow", "triangle"), ("purple", "ring"))
HELD_OUT_SHARE = 0.25  # of the test scenes that show one of them

SIDE = 336
RADII = {"small": (18.0, 22.0), "large": (34.0, 41.0)}
GAP = 6.0
TRIES = 30  # to place a disc, before all are placed again
MAX_OBJECTS = 4
DENSE_OBJECTS = (7, 9)  # in pictures that only the tower is trained on
# Width and height; every second picture is square, as the model sees it.
CANVASES = ((336, 336), (480, 360), (360, 480), (640, 427), (427, 640), (256, 256), (500, 333))


@dataclass(frozen=True)
class Thing:
    """Holds one object: its attributes, its centre and radius, its rotation in degrees."""

    shape: str
    color: str
    size: str
    texture: str
    x: float  # from the left edge of the middle square of the picture
    y: float
    radius: float
    angle: float

    @property
    def pair(self) -> tuple[str, str]:
        return self.color, self.shape

    @property
    def name(self) -> str:
        return f"{self.color} {self.shape}"

    @property
    def phrase(self) -> str:
        """Every attribute in words: "small striped red circle"; "solid" is left out."""
        return phrase_of(self.color, self.shape, self.size, self.texture)


def phrase_of(color: str, shape: str, size: str, texture: str) -> str:
    """Write attributes in words, in the order that questions and captions use."""
    return f"{size} {'striped ' if texture == 'striped' else ''}{color} {shape}"


@dataclass(frozen=True)
class Scene:
    """Holds a picture's content: 1 to 4 things with different (colour, shape) pairs, from left to right."""

    things: tuple[Thing, ...]
    background: str
    canvas: tuple[int, int]  # width, height


def compose(rng: np.random.Generator, *, held_out: bool, dense: bool = False) -> Scene:
    """Compose a random scene; with `held_out` some scenes show a pair that training never shows."""
    fewest, most = DENSE_OBJECTS if dense else (1, MAX_OBJECTS)
    pairs = _pairs(rng, int(rng.integers(fewest, most + 1)), held_out and rng.random() < HELD_OUT_SHARE)
    sizes = [SIZES[int(rng.integers(2))] for _ in pairs]
    radii = [float(rng.uniform(*RADII[size])) for size in sizes]
    places = _places(rng, radii)
    things = [
        Thing(
            shape=shape,
            color=color,
            size=size,
            texture=TEXTURES[int(rng.random() < 0.4)],
            x=x,
            y=y,
            radius=radius,
            angle=float(rng.uniform(-10, 10)),
        )
        for (color, shape), size, radius, (x, y) in zip(pairs, sizes, radii, places, strict=True)
    ]
    canvas = CANVASES[0] if rng.random() < 0.5 else CANVASES[int(rng.integers(1, len(CANVASES)))]
    background = BACKGROUNDS[int(rng.integers(len(BACKGROUNDS)))]
    return Scene(tuple(sorted(things, key=lambda thing: thing.x)), background, canvas)


def _pairs(rng: np.random.Generator, count: int, with_held_out: bool) -> list[tuple[str, str]]:
    """Draw different (colour, shape) pairs; many scenes share a colour or a shape, so that one can count."""
    allowed = [pair for pair in product(COLORS, SHAPES) if pair not in HELD_OUT]
    chosen = [HELD_OUT[int(rng.integers(len(HELD_OUT)))]] if with_held_out else []
    theme = int(rng.integers(3))  # 0: none, 1: a common colour, 2: a common shape
    first = chosen[0] if chosen else allowed[int(rng.integers(len(allowed)))]
    chosen = [first]
    while len(chosen) < count:
        unused = [pair for pair in allowed if pair not in chosen]
        alike = [pair for pair in unused if pair[theme - 1] == first[theme - 1]] if theme else []
        pool = alike if theme and rng.random() < 0.7 and alike else unused
        chosen.append(pool[int(rng.integers(len(pool)))])
    return chosen


def _places(rng: np.random.Generator, radii: list[float]) -> list[tuple[float, float]]:
    """Draw centres of discs that touch neither each other nor the edge; two never have the same x."""
    while True:
        places: list[tuple[float, float]] = []
        for radius in radii:
            for _ in range(TRIES):
                x, y = (float(at) for at in rng.uniform(radius + 4, SIDE - radius - 4, 2))
                if all(
                    np.hypot(x - left, y - top) > radius + other + GAP and abs(x - left) > GAP
                    for (left, top), other in zip(places, radii, strict=False)
                ):
                    places.append((x, y))
                    break
        if len(places) == len(radii):
            return places
