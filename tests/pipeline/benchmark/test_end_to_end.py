"""The end-to-end benchmark's baseline loop equals LLaVA, and every arm has figures."""

import dataclasses

import pytest

from pipeline.benchmark import end_to_end
from pipeline.benchmark.bench import Bench, Job
from pipeline.benchmark.options import EndToEndOptions
from pipeline.benchmark.own_llava import OwnLlava
from pipeline.engines.base import Request
from pipeline.engines.transformers import Transformers
from pipeline.models.checkpoints.folders import folders
from pipeline.models.config import Model
from pipeline.sources.images import Images
from pipeline.stages.arms import Arm
from pipeline.support.errors import ConfigError
from tests.support.runs import TEMPLATE, make_config
from trim import Full, Trim

MODEL = Model(
    name="random",
    path="demo:random/llava",
    clip="demo:random/clip",
    trim_sign=-1,
    encode_dtype="float32",
    generate_dtype="float32",
    template=TEMPLATE,
)
JOB = Job(requests=5, rounds=2, new_tokens=6, images_at_once=2, loop_batches=(1, 4))
# loads, and has no memory for a round
VLLM = """
class LLM:
    def __init__(self, **arguments):
        pass
    def generate(self, requests, sampling, use_tqdm):
        raise RuntimeError(f"no memory for {len(requests)} requests")
def SamplingParams(**arguments):
    pass
"""


def test_the_plain_loop_gives_the_engines_answers():
    bench = Bench(MODEL, Transformers(), JOB, frozenset())
    pixels = bench.encoder.normalize(bench.pictures(0))
    features = bench.encoder.encode_images(bench.pictures(0), frozenset())["patches"]
    requests = [Request(text, tokens) for text, tokens in zip(bench.prompts, features, strict=True)]
    ours = [list(answer.token_ids) for answer in bench.engine.generate(requests)]
    for batch in JOB.loop_batches:
        _, _, loop = bench.loop.answer(bench.prompts, pixels, batch, JOB.new_tokens)
        # the loop ignores EOS, so its answers go on after those of the engine
        assert [tokens[: len(answer)] for tokens, answer in zip(loop, ours, strict=True)] == ours
    assert sum(map(len, ours)) > 20


@pytest.mark.slow
def test_each_arm_is_measured_in_each_round(tmp_path):
    config = make_config(tmp_path, Images(path=str(tmp_path)), tmp_path / "out", max_new_tokens=6)
    arms = (Arm("full", Full(), {}), Arm("fifth", Trim(keep_ratio=0.2), {}))
    model = dataclasses.replace(MODEL, encode_batch_size=2)
    options = EndToEndOptions(requests=5, rounds=2, loop_batches=[1, 4])
    figures = end_to_end.measure(dataclasses.replace(config, model=model, arms=arms), options)
    arms = figures["arms"]
    assert list(arms) == ["loop, batch 1", "loop, batch 4", "full", "fifth"]
    assert all(len(arm["rounds"]) == 2 for arm in arms.values())
    assert arms["loop, batch 4"]["generated_tokens"] == 5 * 6 >= arms["full"]["generated_tokens"] > 0
    assert arms["loop, batch 1"]["of_first_loop"] == 1
    assert arms[figures["best_loop"]]["of_best_loop"] == 1
    assert arms["full"]["visual_tokens"] > 4 * arms["fifth"]["visual_tokens"]
    table = end_to_end.table(figures)
    assert [row[0] for row in table.rows] == list(arms)


@pytest.mark.slow
def test_vllms_own_tells_why_a_round_failed_and_leaves_no_copy(tmp_path, monkeypatch):
    (tmp_path / "tmp").mkdir()
    (tmp_path / "vllm.py").write_text(VLLM)
    monkeypatch.syspath_prepend(tmp_path)  # a new process takes over sys.path
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    own = OwnLlava(folders(MODEL)[0], {}, Bench(MODEL, Transformers(), JOB, frozenset()))
    assert list((tmp_path / "tmp").iterdir())
    with pytest.raises(ConfigError, match=r"^no memory for 5 requests$"):
        own.run(0)
    own.close()
    assert not list((tmp_path / "tmp").iterdir())
