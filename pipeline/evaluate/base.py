"""Declares the interfaces of datasets and metrics."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.sources.base import Source
from pipeline.sources.task import Task
from pipeline.storage.uris import Storage

UNANSWERABLE = "unanswerable"


@dataclass(frozen=True, slots=True)
class Reference:
    """Holds one question of a dataset's official files with its right answers.

    Args:
        question_id, sample_key: as an output names them; `sample_key` is the image.
        answers: empty where the split's answers are not public, or where the truth is not known.
        groups: the subtasks, categories or answer types that have figures of their own.
        unit: names the requests that are scored together (an image of MME, a circle of MMBench); "": the
            request is scored by itself.
        choices: the options of a multiple-choice question, in the order of their letters.
    """

    question_id: str
    sample_key: str
    answers: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    unit: str = ""
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Answered:
    """Holds one row of an output; `prediction` is None unless its status is `ok`.

    `finish_reason` is `length` where decoding.max_new_tokens cut the answer off.
    """

    key: str
    question_id: str
    sample_key: str
    question: str
    prediction: str | None
    status: str
    model: str
    finish_reason: str | None = None

    @property
    def is_cut_off(self) -> bool:
        """Whether the answer ends only because it reached the most tokens it might have."""
        return self.status == "ok" and self.finish_reason == "length"


Figures = dict[str, float]
Numbers = NDArray[np.float64]


def no_summary(groups: Mapping[str, Figures]) -> Figures:
    """Add nothing to the figures of all requests together."""
    return {}


@dataclass(frozen=True)
class Metric:
    """Computes a score that can be resampled: every figure is a function of sums over units.

    Args:
        observe: turns one request into [c] numbers; a prediction of None is wrong.
        figures: computes figures from the sums over units, [c + 1]: `observe`'s or `pool`'s numbers and,
            last, the number of units. NaN where a figure is not defined.
        pool: computes a unit's numbers [p] from those of its requests, [k, c], where a unit has several.
        summary: computes more figures from those of the groups, such as a total.
        notes: the deviations that a reader of the figures should know.
    """

    observe: Callable[[str | None, Reference], Sequence[float]]
    figures: Callable[[Numbers], Figures]
    pool: Callable[[Numbers], Sequence[float]] | None = None
    summary: Callable[[Mapping[str, Figures]], Figures] = no_summary
    notes: tuple[str, ...] = ()


class Dataset(Protocol):
    """Reads an evaluation set; an implementation is a frozen dataclass plus a YAML in `conf/dataset`.

    `root` is the folder, local or a URI, that holds the official files under their official names; nothing is
    ever written into it. `joint` tells whether a question is known by its `question_id` alone, or only
    together with the image's `sample_key`. `max_new_tokens` is the length of answers in published runs of the
    set, which is decoding.max_new_tokens unless a run sets that itself.
    """

    @property
    def root(self) -> str:
        """The folder of the official files."""

    @property
    def joint(self) -> bool:
        """Whether `question_id` names a question only together with `sample_key`."""

    @property
    def max_new_tokens(self) -> int:
        """The most tokens of an answer in published runs."""

    @property
    def submits(self) -> str:
        """What `submission` makes, in a few words; "" if the set has no submission format."""

    def references(self, storage: Storage) -> Iterator[Reference]:
        """Read every question with its answers; a file that cannot be read is a ConfigError naming it."""

    def metric(self, references: Collection[Reference]) -> Metric | None:
        """Return the metric of the dataset; None if the answers are not public or need a judge."""

    def submission(self, rows: Iterator[Answered], storage: Storage) -> bytes:
        """Make the content of the official submission file, or raise ConfigError if there is none.

        Args:
            rows: in the order of the official questions, with their question_ids.
            storage: how to reach the official files.
        """

    def source(self, folder: str, storage: Storage) -> Source:
        """Return a source of its questions and images; converted files are written into `folder`."""

    def task(self) -> Task:
        """Return the questions to ask, with the suffix that published evaluations of the set use."""


def rates(*names: str) -> Callable[[Numbers], Figures]:
    """Make figures that are means over the units of the numbers that `observe` returns."""

    def figures(sums: Numbers) -> Figures:
        return {name: ratio(sums[index], sums[-1]) for index, name in enumerate(names)}

    return figures


def ratio(part: float, whole: float) -> float:
    """Compute part / whole; NaN if whole is 0."""
    return float(part) / float(whole) if whole else float("nan")


def f1(precision: float, recall: float) -> float:
    """Compute the harmonic mean of two rates; 0 if both are 0 or one is not defined."""
    both = precision + recall
    return 2 * precision * recall / both if both > 0 else 0.0
