"""Asks questions about a scene, with the right answers.

Every question also has the things that it is `about`: those whose patches a text encoder should match.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np

from pipeline.demo.scene import COLORS, HELD_OUT, SHAPES, SIDE, Scene, Thing

KINDS = ("color", "shape", "texture", "position", "relation", "count", "existence", "size")
NUMBERS = ("zero", "one", "two", "three", "four")
OFF_MIDDLE = 28.0  # pixels: a thing closer to a middle line is not asked for its quadrant
APART = 28.0  # pixels: two things closer to each other are not asked for left, right, above or below


@dataclass(frozen=True)
class SceneQuestion:
    """Holds one question with its right answers; `about` are indices into the scene's things."""

    kind: str
    question: str
    answers: tuple[str, ...]
    about: tuple[int, ...]


def caption_of(scene: Scene) -> str:
    """Describe every thing with its attributes, from left to right."""
    phrases = [f"a {thing.phrase}" for thing in scene.things]
    return phrases[0] if len(phrases) == 1 else ", ".join(phrases[:-1]) + " and " + phrases[-1]


def ask_all(
    scene: Scene, rng: np.random.Generator, *, held_out: bool, small: bool = False
) -> list[SceneQuestion]:
    """Ask one question of each kind that the scene allows, and two on existence, in the order of KINDS.

    Args:
        held_out: whether a question may name a held-out pair that the scene does not show.
        small: prefer questions about small things: their answers depend more on which tokens are kept.
    """
    preferred = [index for index, thing in enumerate(scene.things) if small and thing.size == "small"]
    questions = []
    for ask in (_color, _shape, _texture, _position, _relation):
        questions += _choose(ask(scene), rng, preferred)
    questions += _choose(_count(scene, rng), rng, preferred)
    questions += _existence(scene, rng, held_out, preferred)
    return questions + _choose(_size(scene), rng, preferred)


def ask_more(scene: Scene, rng: np.random.Generator, times: Mapping[str, int]) -> list[SceneQuestion]:
    """Ask up to `times` questions of each kind (default: one); on existence as many pairs."""
    options = {
        "color": _color(scene),
        "shape": _shape(scene),
        "texture": _texture(scene),
        "position": _position(scene),
        "relation": _relation(scene),
        "count": _count(scene, rng),
        "size": _size(scene),
    }
    questions = []
    for kind, possible in options.items():
        if number := min(times.get(kind, 1), len(possible)):
            questions += [possible[index] for index in rng.choice(len(possible), number, replace=False)]
    for _ in range(times.get("existence", 1)):
        questions += _existence(scene, rng, False, [])
    return questions


def phrases(scene: Scene, rng: np.random.Generator) -> list[SceneQuestion]:
    """Make phrases without an answer: each thing in full, and one attribute with all things that have it."""
    full = [
        SceneQuestion("phrase", f"a {thing.phrase}", (), (index,)) for index, thing in enumerate(scene.things)
    ]
    attribute = ("shape", "color", "size", "texture")[int(rng.integers(4))]
    value = getattr(scene.things[int(rng.integers(len(scene.things)))], attribute)
    sharing = tuple(i for i, thing in enumerate(scene.things) if getattr(thing, attribute) == value)
    text = _plural(value) if attribute == "shape" else f"{value} objects"
    return [*full, SceneQuestion("phrase", text, (), sharing)]


def _choose(
    options: list[SceneQuestion], rng: np.random.Generator, preferred: list[int]
) -> list[SceneQuestion]:
    """Draw one of the options, if any; if possible about one of the `preferred` things."""
    pool = [option for option in options if set(option.about) & set(preferred)] or options
    return [pool[int(rng.integers(len(pool)))]] if pool else []


def _color(scene: Scene) -> list[SceneQuestion]:
    return [
        SceneQuestion("color", text.format(thing.shape), (thing.color,), (index,))
        for index, thing in _unique(scene, lambda thing: thing.shape)
        for text in ("What color is the {}?", "What is the color of the {}?")
    ]


def _shape(scene: Scene) -> list[SceneQuestion]:
    return [
        SceneQuestion("shape", text.format(thing.color), (thing.shape,), (index,))
        for index, thing in _unique(scene, lambda thing: thing.color)
        for text in ("What shape is the {} object?", "What is the shape of the {} object?")
    ]


def _texture(scene: Scene) -> list[SceneQuestion]:
    return [
        SceneQuestion("texture", f"Is the {thing.name} {options}?", (thing.texture,), (index,))
        for index, thing in enumerate(scene.things)
        for options in ("striped or solid", "solid or striped")
    ]


def _position(scene: Scene) -> list[SceneQuestion]:
    questions = []
    for index, thing in enumerate(scene.things):
        if min(abs(thing.x - SIDE / 2), abs(thing.y - SIDE / 2)) >= OFF_MIDDLE:
            answer = (
                f"{'top' if thing.y < SIDE / 2 else 'bottom'} {'left' if thing.x < SIDE / 2 else 'right'}"
            )
            for text in ("Where is the {}?", "In which corner of the image is the {}?"):
                questions.append(SceneQuestion("position", text.format(thing.name), (answer,), (index,)))
    return questions


def _relation(scene: Scene) -> list[SceneQuestion]:
    questions = []
    for i, j in combinations(range(len(scene.things)), 2):
        for a, b in ((i, j), (j, i)):
            first, second = scene.things[a], scene.things[b]
            if abs(first.x - second.x) >= APART:
                side = "left" if first.x < second.x else "right"
                text = f"Is the {first.name} left or right of the {second.name}?"
                questions.append(SceneQuestion("relation", text, (side,), (a, b)))
            if abs(first.y - second.y) >= APART:
                side = "above" if first.y < second.y else "below"
                text = f"Is the {first.name} above or below the {second.name}?"
                questions.append(SceneQuestion("relation", text, (side,), (a, b)))
    return questions


def _count(scene: Scene, rng: np.random.Generator) -> list[SceneQuestion]:
    """Ask for the number of all things, of those of each shape and colour, and of one missing shape."""
    everything = tuple(range(len(scene.things)))
    questions = [_counted("objects", everything)] * 2 if len(everything) < len(NUMBERS) else []
    for shape in dict.fromkeys(thing.shape for thing in scene.things):
        same = tuple(index for index in everything if scene.things[index].shape == shape)
        if len(same) < len(NUMBERS):
            questions += [_counted(_plural(shape), same)] * len(
                same
            )  # repeated: else nearly all answers would be "one"
    for color in dict.fromkeys(thing.color for thing in scene.things):
        same = tuple(index for index in everything if scene.things[index].color == color)
        if len(same) < len(NUMBERS):
            questions += [_counted(f"{color} objects", same)] * len(same)
    missing = [shape for shape in SHAPES if all(thing.shape != shape for thing in scene.things)]
    if missing:
        questions.append(_counted(_plural(missing[int(rng.integers(len(missing)))]), ()))
    return questions


def _counted(noun: str, about: tuple[int, ...]) -> SceneQuestion:
    return SceneQuestion(
        "count", f"How many {noun} are there?", (NUMBERS[len(about)], str(len(about))), about
    )


def _existence(
    scene: Scene, rng: np.random.Generator, held_out: bool, preferred: list[int]
) -> list[SceneQuestion]:
    """Ask for a present thing and for an absent one, random or similar to a present one, as POPE does.

    POPE: arXiv 2305.10355.
    """
    pool = preferred or list(range(len(scene.things)))
    index = pool[int(rng.integers(len(pool)))]
    absent = _absent(scene, rng, held_out)
    template = ("Is there {} in the image?", "Is there {}?")[int(rng.integers(2))]
    return [
        SceneQuestion(
            "existence", template.format(with_article(scene.things[index].name)), ("yes",), (index,)
        ),
        SceneQuestion("existence", template.format(with_article(" ".join(absent))), ("no",), ()),
    ]


def _absent(scene: Scene, rng: np.random.Generator, held_out: bool) -> tuple[str, str]:
    """Draw a pair that the scene lacks; two thirds share the colour or the shape of a thing."""
    shown = {thing.pair for thing in scene.things}
    thing = scene.things[int(rng.integers(len(scene.things)))]
    kind = int(rng.integers(3))
    absent = [
        pair for pair in product(COLORS, SHAPES) if pair not in shown and (held_out or pair not in HELD_OUT)
    ]
    alike = [pair for pair in absent if kind == 0 or pair[kind - 1] == thing.pair[kind - 1]]
    pool = alike or absent
    return pool[int(rng.integers(len(pool)))]


def _size(scene: Scene) -> list[SceneQuestion]:
    questions = []
    for i, j in combinations(range(len(scene.things)), 2):
        for a, b in ((i, j), (j, i)):
            first, second = scene.things[a], scene.things[b]
            if first.size != second.size:
                answer = "larger" if first.radius > second.radius else "smaller"
                text = f"Is the {first.name} larger or smaller than the {second.name}?"
                questions.append(SceneQuestion("size", text, (answer,), (a, b)))
    return questions


def _unique(scene: Scene, attribute: Callable[[Thing], str]) -> list[tuple[int, Thing]]:
    values = [attribute(thing) for thing in scene.things]
    return [(index, thing) for index, thing in enumerate(scene.things) if values.count(values[index]) == 1]


def with_article(name: str) -> str:
    """Put "a" or "an" before a name."""
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _plural(shape: str) -> str:
    return "crosses" if shape == "cross" else f"{shape}s"
