"""Test the layout: the rooms' order, no import cycles, an accurate map, unique names."""

import ast
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Each room imports from its own files and from rooms before it.
ROOMS = (
    *("support", "storage", "sources", "models", "output", "engines", "stages", "run", "demo"),
    *("verify", "status", "export", "evaluate", "compare", "report", "benchmark", "planner", "train_demo"),
)
ORDER = ("trim", *(f"pipeline/{room}" for room in ROOMS), "jobs/common", "jobs")
# Plug-ins of one kind share function names: each file of the folder is one plug-in.
PLUGINS = {
    "jobs": {"run"},
    "pipeline/benchmark": {"measure", "table"},
    "pipeline/benchmark/gpu_check": {"measure", "measure_vllm"},
}


@cache
def sources() -> dict[str, Path]:
    """List every module of the three packages by its dotted name."""
    paths = (path for package in ("trim", "pipeline", "jobs") for path in (ROOT / package).rglob("*.py"))
    return {_module(path): path for path in paths}


def _module(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(module: str) -> str:
    """Find the longest entry of ORDER that contains the module."""
    path = module.replace(".", "/")
    rooms = [room for room in ORDER if path == room or path.startswith(f"{room}/")]
    return max(rooms, key=len) if rooms else path


@cache
def imports_of(module: str) -> frozenset[str]:
    """List our modules that a module imports, also in functions and under TYPE_CHECKING."""
    imported = set()
    for node in ast.walk(ast.parse(sources()[module].read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            below = {f"{node.module}.{alias.name}" for alias in node.names}
            imported |= {name if name in sources() else node.module for name in below}
    return frozenset(name for name in imported if name in sources() and name != module)


@pytest.mark.parametrize("module", sorted(sources()))
def test_a_room_imports_only_from_rooms_before_it(module):
    room = room_of(module)
    if room == "pipeline":
        assert not imports_of(module)
        return
    assert room in ORDER, f"{module} lies in no room"
    above = {name for name in imports_of(module) if ORDER.index(room_of(name)) > ORDER.index(room)}
    assert not above, f"{module} imports from rooms above {room}: {', '.join(sorted(above))}"


def test_imports_have_no_cycles():
    graph = {module: {name for name in imports_of(module) if _is_file(name)} for module in sources()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' <- '.join(error.args[1])}")


def _is_file(module: str) -> bool:
    return sources()[module].name != "__init__.py"


def test_the_folders_of_pipeline_are_the_rooms():
    folders = {path.name for path in (ROOT / "pipeline").iterdir() if (path / "__init__.py").is_file()}
    flat = {path.stem for path in (ROOT / "pipeline").glob("*.py")} - {"__init__"}
    assert folders | flat == set(ROOMS)
    assert len(flat) <= 2


def test_the_map_of_contributing_has_every_room_in_its_order():
    lines = re.findall(r"^\W*((?:pipeline|jobs|trim)[/\w]*?)/?(?:\.py)?`?\s*[| ]", _map(), re.MULTILINE)
    listed = [line for line in lines if line.startswith("pipeline/")]
    assert len(listed) == len(set(listed))
    rooms = [line for line in listed if line.count("/") == 1]
    assert rooms == [f"pipeline/{room}" for room in ROOMS]
    assert {"trim", "jobs", "jobs/common"} <= set(lines)
    folders = {path.parent.relative_to(ROOT) for path in (ROOT / "pipeline").rglob("*/__init__.py")}
    assert {str(folder) for folder in folders} - {"pipeline"} == set(listed)


def _map() -> str:
    """Cut the section "Map" out of CONTRIBUTING.md."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    return re.split(r"^## ", text.partition("\n## Map")[2], maxsplit=1, flags=re.MULTILINE)[0]


def test_where_is_points_at_what_exists():
    """Each `path.py:name` of CONTRIBUTING.md is there: a function, class, method or constant."""
    pointers = re.findall(r"`([\w/]+\.py)(?::([\w.]+))?`", (ROOT / "CONTRIBUTING.md").read_text())
    assert len([name for _, name in pointers if name]) >= 25
    absent = {
        f"{path}:{name}" for path, name in pointers if name and not _defines(ROOT / path, name.split("."))
    }
    assert not absent


def _defines(path: Path, names: list[str]) -> bool:
    """Whether a file has the name at its top or, with two names, a class with that member."""
    scope: ast.AST = ast.parse(path.read_text())
    for name in names:
        defined = {
            getattr(target, "id", getattr(node, "name", None)): node
            for node in getattr(scope, "body", ())
            for target in getattr(node, "targets", [getattr(node, "target", node)])
        }
        if name not in defined:
            return False
        scope = defined[name]
    return True


def public_names() -> Iterator[tuple[str, str, str]]:
    """List kind, name and module of every public top-level class and function."""
    for module, path in sources().items():
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
                yield type(node).__name__, node.name, module


def test_no_name_has_two_meanings():
    places: Mapping[tuple[str, str], set[str]] = defaultdict(
        set
    )  # sets: the overloads in one file are one function
    for kind, name, module in public_names():
        if name not in PLUGINS.get(str(sources()[module].parent.relative_to(ROOT)), ()):
            places[kind, name].add(module)
    twice = {
        f"{name}: {', '.join(sorted(modules))}" for (_, name), modules in places.items() if len(modules) > 1
    }
    assert not twice, "\n".join(sorted(twice))


def test_at_most_three_files_share_a_name():
    """Files that share a name have the same role in their rooms (`config`, `base`)."""
    names = Counter(path.name for path in sources().values() if path.name != "__init__.py")
    assert not {name: count for name, count in names.items() if count > 3}
