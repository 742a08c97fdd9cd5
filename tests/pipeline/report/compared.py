"""Makes data for the report's tests: inputs, a run of three arms, comparison.parquet of any size."""

import dataclasses
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.compare.cost import Pricing
from pipeline.compare.table import comparison_schema
from pipeline.demo.scenes import make_sample
from pipeline.report.rows import Requests
from pipeline.run.config import RunConfig
from pipeline.sources.images import Images
from pipeline.stages.arms import Arm
from tests.support.runs import make_config
from trim import Full, Random, Trim

SCENES = 5
HOSTILE = (
    "what is it?</script><script>document.title='broken'</script>"
    "<img src=x onerror=\"document.title='broken'\">'&amp;{{ 7 * 7 }}<!--"
)
ARMS = {"trim": Trim(), "a third": Random(keep_ratio=1 / 3), "full": Full()}
PRICE = Pricing(hardware="two cores", price_per_hour=0.1, currency="EUR")


def make_inputs(folder: Path) -> None:
    """Write scenes with a question each, one of them hostile, and a broken image."""
    folder.mkdir()
    for index in range(SCENES):
        sample = make_sample("test", 0, index)
        sample.image.save(folder / f"{index:03d}.png")
        (folder / f"{index:03d}.txt").write_text(HOSTILE if index == 1 else sample.questions[0].question)
    (folder / "broken.jpg").write_bytes(b"\xff\xd8 not a picture")
    (folder / "broken.txt").write_text("what <b>is</b> it?")


def configure(inputs: Path, output: Path, checkpoint: Path) -> RunConfig:
    """Configure a run of all arms, with the settings that a command line would record in run.json."""
    source = Images(path=str(inputs))
    config = make_config(checkpoint, source, output, unit_samples=3)
    settings = {
        "source": {"_target_": "pipeline.sources.images.Images", **vars(source)},
        "model": vars(config.model),
        "image": vars(config.imaging),
    }
    arms = tuple(
        Arm(name, reducer, {"_target_": f"trim.{type(reducer).__name__}", **vars(reducer)}, folder=name)
        for name, reducer in ARMS.items()
    )
    return dataclasses.replace(config, arms=arms, settings=settings)


SHARDS = 64


def make_rows(place, rows: int, arms=("full", "trim"), **columns) -> Requests:
    """Write comparison.parquet with so many rows, all alike except for `columns`."""
    names = [f"{row % SHARDS:06d}-{row // SHARDS:08d}-0000" for row in range(rows)]
    values = {"key": names, "sample_key": names, "question_id": [""] * rows, "source": ["s"] * rows}
    values |= {"sample": [0] * rows, "question": ["what?"] * rows}
    for arm in arms:
        values |= {f"prediction.{arm}": ["Yes."] * rows, f"status.{arm}": ["ok"] * rows} | columns
    schema = comparison_schema(arms)
    table = {field.name: pa.array(values.get(field.name, [None] * rows), field.type) for field in schema}
    pq.write_table(pa.table(table, schema=schema), place / "comparison.parquet", row_group_size=1000)
    return Requests(str(place), (str(place / "comparison.parquet"),), arms, joined=True)
