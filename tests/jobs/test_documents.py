"""The documents: their commands, Python examples, links, and references to code.

The mark above a block of commands says whether they are run here or only composed (parsed by Hydra). Commands
within sentences are composed. Commands that need a data set, a cluster or hours are in composed blocks.
"""

import ast
import doctest
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
from pipeline.demo.scenes import write_from_command_line as write_scenes
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
SPAN = re.compile(r"`((?:trimline|make|docker|sbatch|pip|python) [^`]+)`")
PYTHON = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)")
CODE = re.compile(r"`((?:trim|pipeline|jobs|tests)/[\w/]+\.py)(?::([\w.]+))?`")


def commands(text: str) -> list[list[str]]:
    """Split a block into commands of words, without comments, with continued lines joined."""
    lines = text.replace("\\\n", " ").splitlines()
    split = (shlex.split(line, comments=True) for line in lines)
    return [words for words in split if words]


def blocks(path: Path) -> list[tuple[str, str]]:
    """The marks and the texts of a document's shell blocks."""
    return BLOCK.findall(path.read_text())


def prose(path: Path) -> str:
    """A document without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)


def spans(path: Path) -> list[str]:
    """Return the commands within a document's sentences; one may span two lines."""
    return [" ".join(span.split()) for span in SPAN.findall(prose(path))]


COMPOSED = sorted(
    {
        *(shlex.join(words) for path in DOCUMENTS for mark, text in blocks(path) if mark == COMPOSE
          for words in commands(text)),
        *(shlex.join(words) for path in DOCUMENTS for span in spans(path) for words in commands(span)),
    }
)  # fmt: skip


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_block_of_commands_is_marked_run_or_composed(path):
    assert path.read_text().count("```sh\n") == len(blocks(path))
    assert {mark for mark, _ in blocks(path)} <= {RUN, COMPOSE}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_existing_files_and_headings(path):
    for link, heading in LINK.findall(path.read_text()):
        target = path.parent / link if link else path
        assert target.exists(), link
        assert not heading or heading in anchors(target), f"{link}#{heading}"


def anchors(path: Path) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_contents_of_the_readme_are_its_sections():
    text = (ROOT / "README.md").read_text()
    sections = re.findall(r"^## (.+)$", text, re.MULTILINE)
    contents = text.partition("\n## Contents\n")[2].partition("\n## ")[0]
    listed = re.findall(r"\[([^]]+)\]\(#", contents)
    assert [name.lower() for name in listed] == [name.lower() for name in sections if name != "Contents"]


def test_every_page_is_reached_from_the_readme():
    reached, queue = set(), [ROOT / "README.md"]
    while queue:
        page = queue.pop().resolve()
        if page not in reached:
            reached.add(page)
            links = {link for link, _ in LINK.findall(page.read_text()) if link.endswith(".md")}
            queue += [page.parent / link for link in links]
    # the card's text becomes the README.md of a trained checkpoint
    assert {path for path in DOCUMENTS if path.name != "model_card.md"} <= reached


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_named_code_exists(path):
    for file, name in CODE.findall(path.read_text()):
        if path.name != "CONTRIBUTING.md" or not is_example(file):
            assert (ROOT / file).is_file(), file
            assert not name or name in defined(ROOT / file), f"{file}:{name}"


def is_example(file: str) -> bool:
    """True if this is one of the files that CONTRIBUTING.md asks its reader to write."""
    examples = (
        "trim/middle.py",
        "sources/zip.py",
        "engines/echo.py",
        "models/metaclip.py",
        "datasets/colours.py",
    )
    return file.endswith(examples)


def defined(path: Path) -> set[str]:
    """The names at a module's top, and those of its classes as `Class.name`."""
    names: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        names |= named(node)
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{name}" for item in node.body for name in named(item)}
    return names


def named(node: ast.stmt) -> set[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return {node.name}
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return {target.id for target in targets if isinstance(target, ast.Name)}


@pytest.mark.slow
@pytest.mark.demo
def test_the_python_of_contributing_prints_the_shown_values(tmp_path, monkeypatch):
    """CONTRIBUTING.md's Python examples, run with the demo model, print the values shown there."""
    monkeypatch.chdir(tmp_path)
    write_scenes(["--out", "scenes", "--samples", "2", "--split", "test"])
    text = "".join(PYTHON.findall((ROOT / "CONTRIBUTING.md").read_text()))
    test = doctest.DocTestParser().get_doctest(text, {}, "CONTRIBUTING.md", "CONTRIBUTING.md", 0)
    assert len(test.examples) > 20
    lines: list[str] = []
    results = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(test, out=lines.append)
    assert results.failed == 0, "".join(lines)


def trimline(words: list[str]) -> None:
    """Check that the command exists and that Hydra accepts its keys."""
    if not words or words[0].startswith("-"):
        return
    assert words[0] in COMMANDS
    command, arguments = spelled_out(words)
    arguments = [item for item in arguments if item not in ("-m", "--help")]
    if "--log" in arguments:
        arguments = arguments[: arguments.index("--log")]
    parsed = OverridesParser.create().parse_overrides(arguments)
    first = [
        f"{override.get_key_element()}={next(override.sweep_string_iterator())}"
        if override.is_sweep_override()
        else text
        for override, text in zip(parsed, arguments, strict=True)
    ]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        compose(command, first)


def make(words: list[str]) -> None:
    subprocess.run(["make", "--dry-run", *words], cwd=ROOT, check=True, capture_output=True)


def python(words: list[str]) -> None:
    """Check that the module exists, and the command of `jobs` or the files of pytest."""
    module = importlib.util.find_spec(words[1])
    assert words[0] == "-m" and module
    assert not module.submodule_search_locations or importlib.util.find_spec(f"{words[1]}.__main__")
    if words[1] == "jobs":
        trimline(words[2:])
    if words[1] == "pytest":
        files = [word for word in words[2:] if word.startswith("tests")]
        assert files and all((ROOT / file).exists() for file in files)


def pip(words: list[str]) -> None:
    """Check that this package is installed, with a known extra and the constraints file, if any."""
    *options, package = words
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    match = re.fullmatch(r"\.(?:\[([\w-]+)\])?", package)
    assert match and (match[1] is None or match[1] in extras)
    assert options in (["install"], ["install", "--constraint", "constraints.txt"])


def activate(words: list[str]) -> None:
    assert words == [".venv/bin/activate"]


def named_file(words: list[str]) -> None:
    """Check only that the files exist, for programs that are not installed here."""
    files = [word for word in words if word.startswith("docker/")]
    assert files and all((ROOT / file).is_file() for file in files)


def export(words: list[str]) -> None:
    assert all(re.fullmatch(r"[A-Z_]+=\S+", word) for word in words)


KNOWN = {
    **{"trimline": trimline, "make": make, "pip": pip, "export": export},
    **{"python": python, "python3.11": python, ".": activate},
    **dict.fromkeys(("docker", "kubectl", "sbatch", "bash"), named_file),
}


@pytest.mark.slow
@pytest.mark.parametrize("command", COMPOSED)
def test_a_command_composes(command):
    program, *words = shlex.split(command)
    KNOWN[program](words)


@pytest.mark.parametrize(
    "typo",
    [
        *("trimline anotate", "trimline annotate sorce=images", "make dmo", "docker build -f docker/no"),
        *("pip install '.[dmo]'", "python -m jobs anotate", "python -m pytest tests/no.py"),
    ],
)
def test_a_misspelt_command_does_not_compose(typo):
    program, *words = shlex.split(typo)
    with pytest.raises(Exception):  # noqa: B017 - Hydra's, make's or our own
        KNOWN[program](words)


def test_the_demo_is_one_comparison():
    """Both arms run interleaved in one job, so the report needs no warning about their times."""
    dry = subprocess.run(
        ["make", "--no-print-directory", "--dry-run", "demo"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    lines = [shlex.split(line) for line in dry.stdout.splitlines() if "/trimline " in line]
    ((_, *words),) = lines
    assert words[0] == "compare"
    trimline(words)
    assert dry.stdout.splitlines()[-1].strip('"').endswith("output/report.html")


@pytest.mark.slow
def test_marked_commands_run_one_after_another(tmp_path, cache):
    (tmp_path / "photos").mkdir()
    for number in range(2):
        (tmp_path / "photos" / f"{number}.jpg").write_bytes(jpeg(number, 200, 150))
    commands_to_run = [
        line for path in DOCUMENTS for mark, text in blocks(path) if mark == RUN for line in commands(text)
    ]
    assert len(commands_to_run) > 5
    for words in commands_to_run:
        assert words[0] == "trimline"
        result = run([str(BIN / "trimline"), *words[1:]], tmp_path, XDG_CACHE_HOME=str(cache.parent))
        assert result.returncode == 0, f"{shlex.join(words)}: {result.stderr}"
    assert (tmp_path / "answers" / "report.html").is_file()
    assert len((tmp_path / "answers.jsonl").read_text().splitlines()) == 2
