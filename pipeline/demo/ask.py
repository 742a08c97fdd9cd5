"""What can be asked about a scene, and the right answers.

Every question also says which things it is `about`: what a text encoder should light up.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np

from pipeline.demo.scene import COLORS, HELD_OUT, SHAPES, SIDE, Scene, Thing

KINDS = ("color", "shape", "texture", "position", "relation", "count", "existence", "size")
NUMBERS = ("zero", "one", "two", "three", "four")
OFF_MIDDLE = 28.0  # how far a thing must be from the middle lines before its quadrant is asked for
APART = 28.0  # how far two things must be apart before left, right, above or below is asked for


@dataclass(frozen=True)
class Asked:
    """One question; `about` are indices into the scene's things."""

    kind: str
    question: str
    answers: tuple[str, ...]
    about: tuple[int, ...]


def caption_of(scene: Scene) -> str:
    """Every thing with its attributes, from left to right."""
    phrases = [f"a {thing.phrase}" for thing in scene.things]
    return phrases[0] if len(phrases) == 1 else ", ".join(phrases[:-1]) + " and " + phrases[-1]


def ask_all(scene: Scene, rng: np.random.Generator, *, held_out: bool, small: bool = False) -> list[Asked]:
    """One question of each kind that the scene allows, two on existence (a yes and a no), as KINDS go.

    Args:
        held_out: whether a question may name a held-out pair that the scene does not show.
        small: whether questions are about small things rather than others: which tokens are kept decides
            more about them.
    """
    first = [index for index, thing in enumerate(scene.things) if small and thing.size == "small"]
    asked = []
    for make in (_color, _shape, _texture, _position, _relation):
        asked += _choose(make(scene), rng, first)
    asked += _choose(_count(scene, rng), rng, first)
    asked += _existence(scene, rng, held_out, first)
    return asked + _choose(_size(scene), rng, first)


def ask_more(scene: Scene, rng: np.random.Generator, times: Mapping[str, int]) -> list[Asked]:
    """Up to `times` questions of each kind (of one that is not named: one), pairs of them on existence."""
    options = {
        "color": _color(scene),
        "shape": _shape(scene),
        "texture": _texture(scene),
        "position": _position(scene),
        "relation": _relation(scene),
        "count": _count(scene, rng),
        "size": _size(scene),
    }
    asked = []
    for kind, known in options.items():
        number = min(times.get(kind, 1), len(known))
        asked += [known[index] for index in rng.choice(len(known), number, replace=False)] if number else []
    for _ in range(times.get("existence", 1)):
        asked += _existence(scene, rng, False, [])
    return asked


def phrases(scene: Scene, rng: np.random.Generator) -> list[Asked]:
    """Phrases without an answer: each thing in full, and one attribute with all the things that have it."""
    told = [Asked("phrase", f"a {thing.phrase}", (), (index,)) for index, thing in enumerate(scene.things)]
    attribute = ("shape", "color", "size", "texture")[int(rng.integers(4))]
    value = getattr(scene.things[int(rng.integers(len(scene.things)))], attribute)
    having = tuple(i for i, thing in enumerate(scene.things) if getattr(thing, attribute) == value)
    text = _plural(value) if attribute == "shape" else f"{value} objects"
    return [*told, Asked("phrase", text, (), having)]


def _choose(options: list[Asked], rng: np.random.Generator, first: list[int]) -> list[Asked]:
    """One of the options by lot; of those about one of the `first` things, if there are such."""
    among = [option for option in options if set(option.about) & set(first)] or options
    return [among[int(rng.integers(len(among)))]] if among else []


def _color(scene: Scene) -> list[Asked]:
    return [
        Asked("color", text.format(thing.shape), (thing.color,), (index,))
        for index, thing in _unique(scene, lambda thing: thing.shape)
        for text in ("What color is the {}?", "What is the color of the {}?")
    ]


def _shape(scene: Scene) -> list[Asked]:
    return [
        Asked("shape", text.format(thing.color), (thing.shape,), (index,))
        for index, thing in _unique(scene, lambda thing: thing.color)
        for text in ("What shape is the {} object?", "What is the shape of the {} object?")
    ]


def _texture(scene: Scene) -> list[Asked]:
    return [
        Asked("texture", f"Is the {thing.name} {options}?", (thing.texture,), (index,))
        for index, thing in enumerate(scene.things)
        for options in ("striped or solid", "solid or striped")
    ]


def _position(scene: Scene) -> list[Asked]:
    asked = []
    for index, thing in enumerate(scene.things):
        if min(abs(thing.x - SIDE / 2), abs(thing.y - SIDE / 2)) >= OFF_MIDDLE:
            answer = (
                f"{'top' if thing.y < SIDE / 2 else 'bottom'} {'left' if thing.x < SIDE / 2 else 'right'}"
            )
            for text in ("Where is the {}?", "In which corner of the image is the {}?"):
                asked.append(Asked("position", text.format(thing.name), (answer,), (index,)))
    return asked


def _relation(scene: Scene) -> list[Asked]:
    asked = []
    for i, j in combinations(range(len(scene.things)), 2):
        for a, b in ((i, j), (j, i)):
            one, other = scene.things[a], scene.things[b]
            if abs(one.x - other.x) >= APART:
                side = "left" if one.x < other.x else "right"
                text = f"Is the {one.name} left or right of the {other.name}?"
                asked.append(Asked("relation", text, (side,), (a, b)))
            if abs(one.y - other.y) >= APART:
                side = "above" if one.y < other.y else "below"
                text = f"Is the {one.name} above or below the {other.name}?"
                asked.append(Asked("relation", text, (side,), (a, b)))
    return asked


def _count(scene: Scene, rng: np.random.Generator) -> list[Asked]:
    """All things, those of a shape or of a colour that is there, and one shape that may be missing."""
    everything = tuple(range(len(scene.things)))
    asked = [_counted("objects", everything)] * 2 if len(everything) < len(NUMBERS) else []
    for shape in dict.fromkeys(thing.shape for thing in scene.things):
        same = tuple(index for index in everything if scene.things[index].shape == shape)
        if len(same) < len(NUMBERS):
            asked += [_counted(_plural(shape), same)] * len(same)  # or nearly all answers would be "one"
    for color in dict.fromkeys(thing.color for thing in scene.things):
        same = tuple(index for index in everything if scene.things[index].color == color)
        if len(same) < len(NUMBERS):
            asked += [_counted(f"{color} objects", same)] * len(same)
    missing = [shape for shape in SHAPES if all(thing.shape != shape for thing in scene.things)]
    if missing:
        asked.append(_counted(_plural(missing[int(rng.integers(len(missing)))]), ()))
    return asked


def _counted(what: str, about: tuple[int, ...]) -> Asked:
    return Asked("count", f"How many {what} are there?", (NUMBERS[len(about)], str(len(about))), about)


def _existence(scene: Scene, rng: np.random.Generator, held_out: bool, first: list[int]) -> list[Asked]:
    """A thing that is there, and one that is not: as in POPE (arXiv 2305.10355), by lot or nearly there."""
    among = first or list(range(len(scene.things)))
    index = among[int(rng.integers(len(among)))]
    absent = _absent(scene, rng, held_out)
    template = ("Is there {} in the image?", "Is there {}?")[int(rng.integers(2))]
    return [
        Asked("existence", template.format(with_article(scene.things[index].name)), ("yes",), (index,)),
        Asked("existence", template.format(with_article(" ".join(absent))), ("no",), ()),
    ]


def _absent(scene: Scene, rng: np.random.Generator, held_out: bool) -> tuple[str, str]:
    """A pair that the scene lacks; two times in three with the colour or the shape of a thing in it."""
    shown = {thing.pair for thing in scene.things}
    thing = scene.things[int(rng.integers(len(scene.things)))]
    kind = int(rng.integers(3))
    absent = [
        pair for pair in product(COLORS, SHAPES) if pair not in shown and (held_out or pair not in HELD_OUT)
    ]
    alike = [pair for pair in absent if kind == 0 or pair[kind - 1] == thing.pair[kind - 1]]
    among = alike or absent
    return among[int(rng.integers(len(among)))]


def _size(scene: Scene) -> list[Asked]:
    asked = []
    for i, j in combinations(range(len(scene.things)), 2):
        for a, b in ((i, j), (j, i)):
            one, other = scene.things[a], scene.things[b]
            if one.size != other.size:
                answer = "larger" if one.radius > other.radius else "smaller"
                text = f"Is the {one.name} larger or smaller than the {other.name}?"
                asked.append(Asked("size", text, (answer,), (a, b)))
    return asked


def _unique(scene: Scene, attribute: Callable[[Thing], str]) -> list[tuple[int, Thing]]:
    values = [attribute(thing) for thing in scene.things]
    return [(index, thing) for index, thing in enumerate(scene.things) if values.count(values[index]) == 1]


def with_article(name: str) -> str:
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _plural(shape: str) -> str:
    return "crosses" if shape == "cross" else f"{shape}s"
