"""Checkpoints on the command line: converted, tuned for a reducer, or too large."""

import json
import shutil

import pytest
import torch

from pipeline.models.checkpoints.fit import check_fit
from tests.support.commands import trimline
from tests.support.original_checkpoint import edit, make_original


@pytest.fixture
def random(cache):
    from pipeline.models.checkpoints.folders import resolve

    return resolve("demo:random/clip").parent


@pytest.fixture
def original(random, folder):
    return make_original(random, folder / "original", dtype=torch.float32, tower=False)


def test_convert_writes_a_checkpoint_that_a_run_accepts(original, folder, cache):
    result = trimline("convert", f"from={original}", f"to={folder}/new")
    assert (result.returncode, result.stderr) == (0, "")
    assert f"model.path={folder}/new" in result.stdout
    assert check_fit(folder / "new", next(cache.glob("random-*")) / "clip").num_patches == 576
    second = trimline("convert", f"from={original}", f"to={folder}/new")
    assert second.returncode == 2 and "is there already" in second.stderr and second.stderr.count("\n") == 1


def reducer_of(annotate, folder, *overrides):
    """Return the reducer that run.json records before Ray starts, and the printed text."""
    with pytest.raises(pytest.fail.Exception, match="Ray was started"):
        annotate("model=random", f"output={folder}/out", "source.path=pictures", *overrides)
    settings = json.loads((folder / "out" / "run.json").read_text())["configuration"]["reducer"]
    shutil.rmtree(folder / "out")
    kept = {name: settings.get(name) for name in ("_target_", "keep_ratio", "num_kept", "aggregate", "sign")}
    return tuple(kept.values()), annotate.capture.readouterr().out


TRIM = ("trim.Trim", None, None, True, -1)


@pytest.mark.parametrize(
    ("reduction", "expected"),
    [
        ("TRIM:-1", TRIM),
        ("TRIM:0.2", ("trim.Trim", 0.2, None, True, -1)),
        ("TextSim+:-1", TRIM),
        ("TextSim:0.5", ("trim.Trim", 0.5, None, False, -1)),
        (None, TRIM),  # the default of conf/run.yaml
    ],
)
def test_the_reducer_that_the_checkpoint_was_tuned_with_is_used(
    annotate, folder, original, reduction, expected
):
    edit(original, mm_vision_token_reduce_func=reduction)
    model = (f"model.path={original}", "model.clip=null")
    reducer, printed = reducer_of(annotate, folder, *model)
    assert reducer == expected
    assert ("as" in printed and str(reduction) in printed) == (reduction is not None)
    if reduction == "TRIM:0.2":
        assert reducer_of(annotate, folder, *model, "reducer=trim", "reducer.keep_ratio=0.2") == (
            expected,
            "",
        )
        full, printed = reducer_of(annotate, folder, *model, "reducer=full")
        assert full[0] == "trim.Full" and "was tuned with TRIM:0.2" in printed
        trimline("convert", f"from={original}", f"to={folder}/new")
        converted = (f"model.path={folder}/new", "model.clip=demo:random/clip")
        assert reducer_of(annotate, folder, *converted)[0] == expected, "a converted checkpoint keeps it"


@pytest.mark.slow
@pytest.mark.parametrize("reduction", ["PCA:0.99", "TRIM:1.5", "TRIM:0", "TRIM:-2", "TRIM", "TRIM:1.2.3"])
def test_an_unknown_reduction_is_refused_by_name(annotate, folder, original, reduction):
    edit(original, mm_vision_token_reduce_func=reduction)
    line = annotate.refused("model=random", f"model.path={original}", "model.clip=null")
    assert line.startswith("reducer: ") and repr(reduction) in line
    model = (f"model.path={original}", "model.clip=null")
    assert reducer_of(annotate, folder, *model, "reducer=full")[0][0] == "trim.Full"


def test_models_too_large_for_the_machine_are_refused_before_anything_starts(annotate, folder):
    model = ("model=random", "cluster.generate.num_actors=30000", "cluster.generate.num_cpus=0.00001")
    line = annotate.refused(*model)
    assert "GiB of memory are needed (encode 0.5 GiB, generate 15" in line and "this machine has" in line
    with pytest.raises(pytest.fail.Exception, match="Ray was started"):
        annotate(*model, "model.check_memory=false")


def test_a_text_only_model_is_refused(annotate, folder):
    (folder / "vicuna").mkdir()
    (folder / "vicuna" / "config.json").write_text('{"model_type": "llama", "hidden_size": 4096}')
    line = annotate.refused(f"model.path={folder}/vicuna")
    assert "no llava checkpoint" in line and "text alone" in line
