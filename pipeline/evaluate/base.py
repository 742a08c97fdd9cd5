"""What a dataset gives, and what a metric is made of."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from pipeline.sources.base import Source
from pipeline.sources.task import Task
from pipeline.storage.uris import Storage

UNANSWERABLE = "unanswerable"


@dataclass(frozen=True, slots=True)
class Reference:
    """One question as a dataset's official files tell it, with its right answers.

    Args:
        question_id, sample_key: as an output names them; `sample_key` is the image.
        answers: none where the split's answers are not public, or where the truth is not known.
        groups: the subtasks, categories or answer types that are told apart in the figures.
        unit: what counts as one, where several requests are scored together (an image of MME, a circle of
            MMBench); "": the request by itself.
        choices: the options of a multiple-choice question, in the order of their letters.
    """

    question_id: str
    sample_key: str
    answers: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    unit: str = ""
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Request:
    """One question to ask: `image` is relative to the dataset's folder of images."""

    question_id: str
    image: str
    text: str


@dataclass(frozen=True, slots=True)
class Answered:
    """One row of an output; `prediction` is None unless its status is `ok`."""

    key: str
    question_id: str
    sample_key: str
    question: str
    prediction: str | None
    status: str
    model: str


Figures = dict[str, float]


def no_summary(groups: Mapping[str, Figures]) -> Figures:
    """Nothing beyond the figures of all requests together."""
    return {}


@dataclass(frozen=True)
class Metric:
    """A score that can be resampled: every figure is a function of sums over units.

    Args:
        observe: what is kept of one request, [c] numbers; a prediction of None is wrong.
        figures: figures from the sums over units, [c + 1]: `observe`'s or `pool`'s numbers and, last, how
            many units there are. NaN where a figure is not defined.
        pool: a unit's numbers [p] from those of its requests, [k, c], where a unit has several.
        summary: more figures from those of the groups, such as a total.
        notes: the deviations that a reader of the figures should know.
    """

    observe: Callable[[str | None, Reference], Sequence[float]]
    figures: Callable[[np.ndarray], Figures]
    pool: Callable[[np.ndarray], Sequence[float]] | None = None
    summary: Callable[[Mapping[str, Figures]], Figures] = no_summary
    notes: tuple[str, ...] = ()


class Dataset(Protocol):
    """An evaluation set; an implementation is a frozen dataclass plus a YAML in `conf/dataset`.

    `root` is the folder, local or a URI, that holds the official files under their official names; nothing is
    ever written into it. `joint` tells whether a question is known by its `question_id` alone, or only
    together with the image's `sample_key`.
    """

    @property
    def root(self) -> str:
        """Where the official files are."""

    @property
    def joint(self) -> bool:
        """Whether `question_id` names a question only together with `sample_key`."""

    def references(self, storage: Storage) -> Iterator[Reference]:
        """Every question with its answers; raises ConfigError, naming the file, if one cannot be read."""

    def metric(self, references: Collection[Reference]) -> Metric | None:
        """How its predictions are scored; None if the answers are not public or need a judge."""

    def submission(self, rows: Iterator[Answered]) -> Iterator[str]:
        """The pieces of a file in the official submission format; raises ConfigError if there is none."""

    def source(self, folder: str, storage: Storage) -> Source:
        """A source of its questions and images; what has to be converted is written into `folder`."""

    def task(self) -> Task:
        """What is asked, with the suffix under which the set is usually evaluated."""


def rates(*names: str) -> Callable[[np.ndarray], Figures]:
    """Figures that are means over the units of what `observe` gives."""

    def figures(sums: np.ndarray) -> Figures:
        return {name: ratio(sums[index], sums[-1]) for index, name in enumerate(names)}

    return figures


def ratio(part: float, whole: float) -> float:
    """A share, NaN of nothing."""
    return float(part) / float(whole) if whole else float("nan")


def f1(precision: float, recall: float) -> float:
    """The harmonic mean of two rates; 0 if both are 0 or one is not defined."""
    both = precision + recall
    return 2 * precision * recall / both if both > 0 else 0.0
