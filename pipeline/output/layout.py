"""Names the files of an output folder."""

MANIFEST = "run.json"
PLAN = "plan"  # a folder
DATA = "data"  # a folder
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
