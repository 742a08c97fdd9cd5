"""Escapes in overrides of prompt texts mean line breaks, tabs and backslashes, everywhere alike."""

import dataclasses
from pathlib import Path

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hypothesis import example, given, settings
from hypothesis import strategies as st

from jobs.common.arguments import CONF
from jobs.common.arms import arm_specs
from jobs.common.configs import make_config
from jobs.common.entry import run_command
from jobs.common.escapes import TEXTS, decoded, encoded, escape, unescape
from jobs.compare import _arms, _groups
from pipeline.models.config import Decoding, Model
from pipeline.sources.task import Task

PIECES = ["\n", "\t", "\\", "n", "t", '"', "'", " ", ",", "#", "é", "${x}", "\\${x}", "{question}", "]", "$"]
WRITTEN = st.lists(st.sampled_from(PIECES), max_size=8).map("".join)
QUOTES = st.sampled_from(Quote)
cases = settings(max_examples=60, derandomize=True)
# Fields of the same classes whose text is no part of a prompt and ends no answer.
OTHER = {"model.name", "model.path", "model.clip", "model.encode_dtype", "model.generate_dtype"}


def value_of(argument: str):
    return OverridesParser.create().parse_override(argument).value()


@cases
@given(WRITTEN)
@example("\\" * 3 + "${x}")
def test_decode_undoes_encode(text):
    assert unescape(escape(text)) == text


@pytest.mark.parametrize(
    ("written", "text"),
    [
        (r"\nA", "\nA"),
        (r"a\tb\\c", "a\tb\\c"),
        (r"\\nA", r"\nA"),
        (r"\d \{x} \ ", r"\d \{x} \ "),
        ("a\nb", "a\nb"),
        (r"\n\${x}\\${x}", "\n" + r"\${x}\\${x}"),
    ],
)
def test_what_escapes_mean(written, text):
    assert unescape(written) == text


@settings(cases, max_examples=20)
@given(st.lists(WRITTEN, min_size=1, max_size=3), QUOTES)
@example(["a\\"], Quote.double)
def test_an_override_holds_the_text_and_so_does_one_that_is_read_again(texts, quote):
    written = [QuotedString(escape(text), quote).with_quotes() for text in texts]
    for argument, value in (
        (f"decoding.stop=[{','.join(written)}]", texts),
        (f"+decoding={{stop: [{','.join(written)}], top_p: 0.5}}", {"stop": texts, "top_p": 0.5}),
        (f"task.suffix={written[0]}", texts[0]),
    ):
        new = decoded(argument)
        assert value_of(new) == value
        assert value_of(decoded(encoded(new))) == value


@cases
@given(WRITTEN, QUOTES)
def test_other_keys_stay_as_they_are(text, quote):
    written = QuotedString(text, quote).with_quotes()
    for argument in (
        f"source.path={written}",
        f"model.path={written}",
        f"~task.suffix={written}",
        "--cfg=job",
    ):
        assert decoded(argument) == argument


@pytest.fixture
def configs(monkeypatch, folder):
    """Run `annotate` only up to its frozen configuration; collects these."""
    collected = []
    monkeypatch.setattr("jobs.annotate.run", lambda tree: collected.append(make_config(tree)) or 0)
    return collected


@pytest.mark.parametrize(
    "argument", [r'task.suffix="\nA"', r"task.suffix='\nA'", r"++task.suffix=\nA", "task.suffix='\nA'"]
)
def test_a_run_asks_and_records_the_text(configs, argument):
    assert run_command("annotate", ["source.path=pictures", argument, r'decoding.stop=["\n",x]']) == 0
    (config,) = configs
    assert (config.task.suffix, config.decoding.stop) == ("\nA", ["\n", "x"])
    assert (config.settings["task"]["suffix"], config.settings["decoding"]["stop"]) == ("\nA", ["\n", "x"])


def test_each_point_of_a_sweep_has_its_text_in_a_folder_of_one_line(configs):
    sweep = [
        r'task.suffix="\nA","\\nB"',
        r'model.template=choice("<image>\n{question}","<image> {question}")',
    ]
    assert run_command("annotate", ["-m", "source.path=pictures", *sweep]) == 0
    assert {config.task.suffix for config in configs} == {"\nA", r"\nB"}
    assert {config.model.template for config in configs} == {"<image>\n{question}", "<image> {question}"}
    assert not any("\n" in config.options.output for config in configs)
    assert len({config.options.output for config in configs}) == 4


def test_the_arms_of_a_comparison_have_the_text(monkeypatch, folder):
    groups = []
    monkeypatch.setattr(
        "jobs.compare.run",
        lambda tree: groups.extend(_groups(make_config(tree), arm_specs(_arms(tree)))) or 0,
    )
    template = r'"<image>\n{question} A:"'
    arms = f"arms={{full: {{}}, trim: {{model: {{template: {template}}}}}}}"
    assert run_command("compare", ["source.path=pictures", arms, r'task.suffix="\nA"']) == 0
    assert [group.model.template for group in groups][1:] == ["<image>\n{question} A:"]
    assert {group.task.suffix for group in groups} == {"\nA"}
    assert groups[1].settings["model"]["template"] == "<image>\n{question} A:"


def test_the_configuration_that_is_printed_has_the_text(capfd):
    assert run_command("annotate", [r'task.suffix="\nA"', r'decoding.stop=["\t"]', "--cfg", "job"]) == 0
    printed = yaml.safe_load(capfd.readouterr().out)
    assert (printed["task"]["suffix"], printed["decoding"]["stop"]) == ("\nA", ["\t"])


def test_every_text_of_a_prompt_is_listed():
    kinds = {"task": Task, "model": Model, "decoding": Decoding}
    texts = {
        f"{section}.{field.name}"
        for section, kind in kinds.items()
        for field in dataclasses.fields(kind)
        if field.type in (str, str | None, list[str])
    }
    assert texts - OTHER == {key for key in TEXTS if key.split(".")[0] in kinds}
    with_breaks = {
        f"{path.parent.name}.{key}"
        for path in Path(CONF).glob("*/*.yaml")
        for key, value in yaml.safe_load(path.read_text()).items()
        if isinstance(value, str) and "\n" in value
    }
    assert with_breaks == {"model.template", "dataset.suffix"} and with_breaks < set(TEXTS)
