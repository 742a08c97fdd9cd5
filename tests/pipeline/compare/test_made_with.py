"""Test what a comparison says of how its arms were made."""

from pipeline.compare.figures import made_with
from pipeline.output.manifest import make_manifest
from pipeline.report.tables import _made_with
from pipeline.stages.clip_text import ClipText
from pipeline.support.words import DASH


def test_an_arm_shows_the_text_that_clip_read_for_it():
    own = ClipText(text="bare", long="windows").counted()
    reader = made_with(make_manifest("out", {"reducer": {"_target_": "trim.CDPruner"}, "clip_text": own}, {}))
    blind = made_with(make_manifest("out", {"reducer": {"_target_": "trim.DivPrune"}, "clip_text": {}}, {}))
    assert (reader.clip_text, blind.clip_text) == (["bare", "windows"], None)
    grid = _made_with({"cdpruner": reader, "divprune": blind})
    assert [row[grid.columns.index("CLIP reads")] for row in grid.rows] == ["bare, windows", DASH]
