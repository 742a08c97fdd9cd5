"""Names the files of an output folder, and the folders of arms."""

from pipeline.support.errors import ConfigError

MANIFEST = "run.json"
PLAN = "plan"  # a folder
DATA = "data"  # a folder
SLICES = "slices"  # a folder: what each slice of a run tells of itself
DONE = "done"  # a folder: sums of finished shards, derived from data/
SUMMARY = "summary.json"
SUCCESS = "_SUCCESS"
CARD = "README.md"
QUESTIONS = "questions"  # a folder: an evaluation set's, of a run on a cluster
# Written by other commands than `annotate`.
EVALUATION = "evaluation.json"
COMPARISON = "comparison.json"
COMPARISON_TABLE = "comparison.parquet"
REPORT_PAGE = "report.html"
REPORT_TEXT = "report.txt"


def require_arm_names(names: object) -> list[str]:
    """Return the names of arms that a file gives; ConfigError if one is none, as a path out of the folder."""
    arms: list[str] = []
    for name in names if isinstance(names, dict | list) else [names]:
        if not isinstance(name, str) or not name or name.startswith(".") or set(name) & set("/\\\0"):
            raise ConfigError(f"{COMPARISON} names {name!r}, which is no arm's folder beside it")
        arms.append(name)
    return arms
