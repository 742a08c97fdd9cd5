"""Draws scenes: flat or striped shapes on noisy, gradient or textured backgrounds."""

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from pipeline.demo.scene import SIDE, Scene, Thing

RGB = {
    "red": (215, 40, 45),
    "green": (35, 150, 60),
    "blue": (45, 75, 215),
    "yellow": (240, 215, 45),
    "purple": (145, 50, 175),
    "orange": (240, 135, 30),
    "black": (20, 20, 22),
    "white": (248, 248, 246),
}
JITTER = 12  # largest difference of a channel from its colour
STRIPE_PX = 4.0
OVERSAMPLING = 4


def draw(scene: Scene, rng: np.random.Generator) -> Image.Image:
    """Draw a scene in RGB; its things lie in the middle square."""
    width, height = scene.canvas
    scale = min(width, height) / SIDE
    picture = Image.fromarray(_background(scene.background, width, height, rng))
    left, top = (width - SIDE * scale) / 2, (height - SIDE * scale) / 2
    for thing in scene.things:
        _paste(picture, thing, (left + thing.x * scale, top + thing.y * scale), scale, rng)
    return picture


def silhouette(scene: Scene, cells: int) -> NDArray[np.float32]:
    """Draw how much of each cell of the middle square things cover: [cells, cells] in [0, 1]."""
    mask = Image.new("L", (cells * OVERSAMPLING, cells * OVERSAMPLING))
    scale = mask.width / SIDE
    for thing in scene.things:
        _outline(ImageDraw.Draw(mask), thing, (thing.x * scale, thing.y * scale), thing.radius * scale)
    covered: NDArray[np.float32] = np.asarray(mask.resize((cells, cells), Image.Resampling.BOX), np.float32)
    return covered / np.float32(255)


def _background(kind: str, width: int, height: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Draw a greyish background of one of the BACKGROUNDS with a little noise: [height, width, 3]."""
    base = (rng.uniform(95, 185) + rng.uniform(-18, 18, 3)).astype(np.float32)
    noise = rng.standard_normal((height, width, 1), np.float32)
    if kind == "gradient":
        angle = rng.uniform(0, 2 * math.pi)
        across = np.linspace(-0.5, 0.5, width, dtype=np.float32) * np.float32(math.cos(angle))
        down = np.linspace(-0.5, 0.5, height, dtype=np.float32) * np.float32(math.sin(angle))
        ramp = (across[None, :] + down[:, None])[..., None]
        field = 3 * noise + ramp * rng.uniform(-60, 60, 3).astype(np.float32)
    elif kind == "texture":
        cell = int(rng.integers(6, 24))
        coarse = 14 * rng.standard_normal((height // cell + 1, width // cell + 1, 1), np.float32)
        field = 3 * noise + coarse.repeat(cell, 0).repeat(cell, 1)[:height, :width]
    else:
        field = np.float32(rng.uniform(8, 20)) * noise
    pixels: NDArray[np.uint8] = (base + field).clip(0, 255).astype(np.uint8)
    return pixels


def _paste(
    picture: Image.Image, thing: Thing, center: tuple[float, float], scale: float, rng: np.random.Generator
) -> None:
    """Draw a thing at OVERSAMPLING times its size, shrink it and paste it into the picture."""
    half = math.ceil(thing.radius * scale) + 2
    left, top = round(center[0]) - half, round(center[1]) - half
    size = 2 * half * OVERSAMPLING
    middle = ((center[0] - left) * OVERSAMPLING, (center[1] - top) * OVERSAMPLING)
    mask = Image.new("L", (size, size))
    _outline(ImageDraw.Draw(mask), thing, middle, thing.radius * scale * OVERSAMPLING)
    color = _jittered(RGB[thing.color], rng)
    paint = Image.new("RGB", (size, size), color)
    if thing.texture == "striped":
        _stripe(
            ImageDraw.Draw(paint), size, STRIPE_PX * scale * OVERSAMPLING, _other_tone(thing.color, color)
        )
    small = (2 * half, 2 * half)
    picture.paste(
        paint.resize(small, Image.Resampling.BOX), (left, top), mask.resize(small, Image.Resampling.BOX)
    )


def _outline(pen: ImageDraw.ImageDraw, thing: Thing, middle: tuple[float, float], radius: float) -> None:
    x, y = middle
    if thing.shape in ("circle", "ring"):
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
        if thing.shape == "ring":
            hole = 0.5 * radius
            pen.ellipse((x - hole, y - hole, x + hole, y + hole), fill=0)
        return
    turn = math.radians(thing.angle)
    corners = [
        (
            x + radius * (a * math.cos(turn) - b * math.sin(turn)),
            y + radius * (a * math.sin(turn) + b * math.cos(turn)),
        )
        for a, b in _corners(thing.shape)
    ]
    pen.polygon(corners, fill=255)


def _corners(shape: str) -> list[tuple[float, float]]:
    """List the corners of a shape, on or in the unit circle, clockwise."""
    if shape == "square":
        side = 0.85
        return [(-side, -side), (side, -side), (side, side), (-side, side)]
    if shape == "triangle":
        return [_on_circle(1.0, third / 3) for third in range(3)]
    if shape == "star":
        return [_on_circle(0.42 if tip % 2 else 1.0, tip / 10) for tip in range(10)]
    arm, width = 1.0, 0.34  # cross
    quarter = [(-width, -arm), (width, -arm), (width, -width)]
    corners = []
    for _ in range(4):
        corners += quarter
        quarter = [(-b, a) for a, b in quarter]
    return corners


def _on_circle(radius: float, turn: float) -> tuple[float, float]:
    angle = 2 * math.pi * turn - math.pi / 2
    return radius * math.cos(angle), radius * math.sin(angle)


def _stripe(pen: ImageDraw.ImageDraw, size: int, period: float, color: tuple[int, ...]) -> None:
    for stripe in range(0, math.ceil(size / period), 2):
        pen.rectangle((0, stripe * period, size, (stripe + 1) * period), fill=color)


def _jittered(color: tuple[int, int, int], rng: np.random.Generator) -> tuple[int, ...]:
    offsets = rng.integers(-JITTER, JITTER + 1, 3)
    return tuple(
        int(np.clip(channel + offset, 0, 255)) for channel, offset in zip(color, offsets, strict=True)
    )


def _other_tone(name: str, color: tuple[int, ...]) -> tuple[int, ...]:
    """Pick the colour of the stripes: darker, and for black lighter."""
    if name == "black":
        return tuple(channel + 75 for channel in color)
    return tuple(int(channel * 0.55) for channel in color)
