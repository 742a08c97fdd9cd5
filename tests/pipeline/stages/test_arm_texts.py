"""Test that each arm reads its own text, as a run with that text would, and that none is embedded twice."""

import dataclasses
import json
from itertools import product

import pytest

from pipeline.models.checkpoints.fit import check_fit
from pipeline.models.config import Model
from pipeline.output.manifest import make_manifest
from pipeline.run.fingerprint import arm_fields, counted_fields
from pipeline.run.prepare import prepare
from pipeline.sources.images import Images
from pipeline.stages.arms import Arm
from pipeline.stages.clip_text import LONG, TEXTS, ClipText
from pipeline.stages.decode import decode_unit
from pipeline.stages.encode import Encode
from pipeline.stages.imaging import Imaging
from pipeline.stages.rows import unpack_unit
from pipeline.storage.uris import Storage, write_atomic
from pipeline.support.errors import ConfigError
from tests.pipeline.stages.test_stages import TEMPLATE, unit_of
from tests.support.runs import make_config
from tests.support.tars import jpeg
from trim import CDPruner, DivPrune, Random, Trim

SUFFIX = "\nAnswer the question using a single word or phrase."
LONG_QUESTION = " ".join(f"what color is cup number {n}?" for n in range(40)) + SUFFIX
EVERY = [ClipText(text=text, long=long) for text, long in product(TEXTS, LONG)]
OF_RUN = ClipText(text="words")


@pytest.fixture(scope="module")
def unit(random_checkpoint):
    """Decode one unit of two pictures, one with a question of many windows; returns it with its model."""
    llava, clip = random_checkpoint / "llava", random_checkpoint / "clip"
    model = Model(name="random", path=str(llava), clip=str(clip), template=TEMPLATE)
    lines = [(jpeg(1), [f"what is it?{SUFFIX}"], "ok"), (jpeg(2), [LONG_QUESTION, f"why?{SUFFIX}"], "ok")]
    decoded = decode_unit(unit_of(lines), model=model, imaging=Imaging())
    return decoded, {"model": model, "geometry": check_fit(llava, clip), "device": "cpu", "threads": None}


def kept(table, arm):
    """List what each request kept under one arm: the patches and the tokens themselves."""
    rows = [row for row in table["requests"].to_pylist() if row["arm"] == arm]
    return [(row["kept_patches"], table["tokens"]["tokens"][row["visual"]].as_py()) for row in rows]


def test_each_arm_reads_its_own_text_or_else_the_runs(unit):
    decoded, shared = unit
    arms = [Arm(str(n), CDPruner(40), {}, clip_text=own) for n, own in enumerate([*EVERY, None])]
    together = Encode(arms=tuple(arms), clip_text=OF_RUN, suffix=SUFFIX, **shared)(decoded)
    tables = unpack_unit(together).tables
    for number, own in enumerate([*EVERY, OF_RUN]):
        alone = Encode(arms=(Arm("x", CDPruner(40), {}),), clip_text=own, suffix=SUFFIX, **shared)(decoded)
        assert kept(tables, number) == kept(unpack_unit(alone).tables, 0), own
    of_long_question = {kept(tables, number)[1] for number in range(len(EVERY))}
    assert len(of_long_question) > 2 * len(LONG), "the settings differ in what they read"


def test_each_text_is_embedded_once_and_only_for_the_arms_that_read_it(unit, monkeypatch):
    decoded, shared = unit
    bare, windows = ClipText(text="bare"), ClipText(long="windows")
    arms = [
        Arm("run's", Trim(), {}),
        Arm("bare", Trim(), {}, clip_text=bare),
        Arm("bare, too", CDPruner(9), {}, clip_text=ClipText(text="bare")),
        Arm("windows", CDPruner(9), {}, clip_text=windows),
        Arm("the run's by name", CDPruner(9), {}, clip_text=OF_RUN),
        Arm("blind", DivPrune(9), {}),
    ]
    encode = Encode(arms=tuple(arms), clip_text=OF_RUN, suffix=SUFFIX, **shared)
    embedded = []
    tokenize = encode._encoder.tokenize_texts

    def counting(texts, *, windows):
        embedded.append((texts, windows))
        return tokenize(texts, windows=windows)

    monkeypatch.setattr(encode._encoder, "tokenize_texts", counting)
    requests = unpack_unit(encode(decoded)).tables["requests"].to_pylist()
    questions = [f"what is it?{SUFFIX}", LONG_QUESTION, f"why?{SUFFIX}"]
    expected = [
        ([setting.of(text, suffix=SUFFIX, template=TEMPLATE) for text in questions], setting is windows)
        for setting in (OF_RUN, bare, windows)
    ]
    assert embedded == expected
    seconds = {row["arm"]: row["encode_s"] for row in requests if row["sample"] == 0}
    assert all(seconds[arm] > seconds[5] for arm in range(5)), "an arm that reads no text is charged for none"


@pytest.mark.parametrize("reducer", [DivPrune(4), Random(num_kept=4)])
def test_a_text_for_a_reducer_that_reads_none_is_refused(reducer):
    with pytest.raises(ConfigError, match=f"clip_text: reducer {type(reducer).__name__} reads no text"):
        Arm("blind", reducer, {}, clip_text=ClipText())


@pytest.fixture
def config(random_checkpoint, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "0.jpg").write_bytes(jpeg(1))
    (tmp_path / "in" / "0.json").write_text('{"question": "why?"}')
    return make_config(random_checkpoint, Images(path=str(tmp_path / "in")), tmp_path / "out", reducer="trim")


@pytest.mark.parametrize("setting", EVERY)
def test_the_fingerprint_is_that_of_a_run_with_the_arms_text(config, setting):
    """So an output is continued in whatever way its text is given, also through another arm's budget."""
    trim, chance = Arm("trim", Trim(), {}), Arm("chance", Random(num_kept=1), {}, budget_of="trim")
    own = dataclasses.replace(trim, clip_text=setting)
    of_run = dataclasses.replace(config, arms=(trim, chance), clip_text=setting)
    of_arm = dataclasses.replace(config, arms=(own, chance), clip_text=OF_RUN)
    assert counted_fields(of_run, {}) == counted_fields(of_arm, {})
    assert arm_fields(of_arm, own)["clip_text"] == setting.counted()


def test_run_json_holds_the_arms_own_text(config):
    (arm,) = config.arms
    own = dataclasses.replace(arm, clip_text=ClipText(text="bare", long="windows"))
    (state,) = prepare(dataclasses.replace(config, arms=(own,))).states
    assert state.manifest.configuration["clip_text"] == {"text": "bare", "long": "windows"}
    assert state.manifest.counted["clip_text.text"] == "bare"


@pytest.mark.parametrize("long", LONG)
def test_an_output_of_release_0_1_0_is_continued_unless_it_averaged_windows(config, long):
    run = dataclasses.replace(config, clip_text=ClipText(long=long))
    (state,) = prepare(run).states
    counted = {name: value for name, value in state.manifest.counted.items() if "windows_mean" not in name}
    before = make_manifest(state.folder, counted, state.manifest.configuration)
    fs, folder = Storage().open(state.folder)
    write_atomic(fs, f"{folder}/run.json", json.dumps(dataclasses.asdict(before)).encode())
    if long == "cut":
        prepare(run)
        return
    with pytest.raises(ConfigError) as refused:
        prepare(run)
    reason = 'clip_text.windows_mean was null, is "of directions; of raw embeddings in 0.1.0"; choose another'
    assert reason in str(refused.value) and "\n" not in str(refused.value)
