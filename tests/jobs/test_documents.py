"""Every command in every document: what a block is marked with says whether it is run here or only composed.

Commands within sentences are composed. What needs a data set, a cluster or hours stands in composed blocks.
"""

import importlib.util
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser

from jobs.main import COMMANDS, spelled_out
from tests.support.processes import run
from tests.support.tars import jpeg

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")),
    *sorted(path for top in ("trim", "pipeline", "docker") for path in (ROOT / top).rglob("*.md")),
]
RUN, COMPOSE = "<!-- a test runs these -->", "<!-- a test composes these -->"
BLOCK = re.compile(r"(?:^(<!--[^\n]*-->)\n)?^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`((?:trimline|make|docker|pip|python) [^`]+)`")


def commands(text: str) -> list[list[str]]:
    """A block's lines as words, without comments; continued lines are one."""
    lines = text.replace("\\\n", " ").splitlines()
    found = (shlex.split(line, comments=True) for line in lines)
    return [words for words in found if words]


def blocks(path: Path) -> list[tuple[str, str]]:
    """The marks and the texts of a document's shell blocks."""
    return BLOCK.findall(path.read_text())


def spans(path: Path) -> list[str]:
    """Commands within a document's sentences, which may go on in the next line."""
    prose = re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    return [" ".join(found.split()) for found in SPAN.findall(prose)]


COMPOSED = sorted(
    {
        *(shlex.join(words) for path in DOCUMENTS for mark, text in blocks(path) if mark == COMPOSE
          for words in commands(text)),
        *(shlex.join(words) for path in DOCUMENTS for span in spans(path) for words in commands(span)),
    }
)  # fmt: skip


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_block_of_commands_says_what_is_done_with_it(path):
    assert path.read_text().count("```sh\n") == len(blocks(path))
    assert {mark for mark, _ in blocks(path)} <= {RUN, COMPOSE}


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) < 250


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_is_linked_is_there(path):
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text()):
        assert (path.parent / link).exists(), link


def trimline(words: list[str]) -> None:
    """The command is one of ours, and Hydra takes its keys."""
    if not words or words[0].startswith("-"):
        return
    assert words[0] in COMMANDS
    command, given = spelled_out(words)
    given = [item for item in given if item not in ("-m", "--help")]
    if "--log" in given:
        given = given[: given.index("--log")]
    parsed = OverridesParser.create().parse_overrides(given)
    first = [
        f"{one.get_key_element()}={next(one.sweep_string_iterator())}" if one.is_sweep_override() else text
        for one, text in zip(parsed, given, strict=True)
    ]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        compose(command, first)


def make(words: list[str]) -> None:
    subprocess.run(["make", "--dry-run", *words], cwd=ROOT, check=True, capture_output=True)


def python(words: list[str]) -> None:
    assert words[0] == "-m" and importlib.util.find_spec(words[1])


def pip(words: list[str]) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (extra,) = re.findall(r"\.\[(\w+)\]", words[-1])
    assert words[0] == "install" and extra in extras


def named_file(words: list[str]) -> None:
    """For what is not here to be asked: the file that it is given is."""
    (file,) = [word for word in words if word.startswith("docker/")]
    assert (ROOT / file).is_file()


def export(words: list[str]) -> None:
    assert all(re.fullmatch(r"[A-Z_]+=\S+", word) for word in words)


KNOWN = {
    **{"trimline": trimline, "make": make, "python": python, "pip": pip, "export": export},
    **dict.fromkeys(("docker", "kubectl", "sbatch"), named_file),
}


@pytest.mark.parametrize("command", COMPOSED)
def test_a_command_composes(command):
    program, *words = shlex.split(command)
    KNOWN[program](words)


@pytest.mark.parametrize(
    "typo", ["trimline anotate", "trimline annotate sorce=images", "make dmo", "docker build -f docker/no"]
)
def test_a_command_with_a_slip_does_not(typo):
    program, *words = shlex.split(typo)
    with pytest.raises(Exception):  # noqa: B017 - Hydra's, make's or our own
        KNOWN[program](words)


@pytest.mark.slow
def test_the_commands_to_run_run_one_after_another(tmp_path, cache):
    (tmp_path / "photos").mkdir()
    for number in range(2):
        (tmp_path / "photos" / f"{number}.jpg").write_bytes(jpeg(number, 200, 150))
    given = [
        line for path in DOCUMENTS for mark, text in blocks(path) if mark == RUN for line in commands(text)
    ]
    assert len(given) > 5
    for words in given:
        assert words[0] == "trimline"
        done = run([str(BIN / "trimline"), *words[1:]], tmp_path, XDG_CACHE_HOME=str(cache.parent))
        assert done.returncode == 0, f"{shlex.join(words)}: {done.stderr}"
    assert (tmp_path / "answers" / "report.html").is_file()
    assert len((tmp_path / "answers.jsonl").read_text().splitlines()) == 2
