"""Test rules that hold for all sources and the whole configuration."""

import ast
import dataclasses
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import get_class
from omegaconf import MISSING, OmegaConf

from jobs.benchmark import BENCHMARKS, Benchmark
from jobs.compare import Comparing

ROOT = Path(__file__).parents[1]
CONF = ROOT / "conf"
PACKAGES = ("trim", "pipeline", "jobs")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
OPTIONS = sorted(path for path in CONF.glob("*/*.yaml"))
COMMANDS = sorted(path.stem for path in CONF.glob("*.yaml"))
# The commands that run the pipeline include run.yaml.
RUNS = [
    name
    for name in COMMANDS
    if name == "run" or "run" in OmegaConf.load(CONF / f"{name}.yaml").get("defaults")
]
# Groups without a default choice, and the commands that have them.
STORAGES = ("storage", "source_storage")
OPTIONAL = {"dataset": [*RUNS, "evaluate"], "pricing": ["compare", "plan"]}
STAGES = ("pipeline.run.cluster.booked.ActorResources", "pipeline.run.cluster.booked.TaskResources")
# The classes of keys that are not groups.
OF_KEY = {
    "clip_text": "pipeline.stages.clip_text.ClipText",
    "decoding": "pipeline.models.config.Decoding",
    "image": "pipeline.stages.imaging.Imaging",
}
OF_RUN = ("pipeline.run.config.RunOptions", "pipeline.output.units.UnitLimits", *STAGES)
TARGETS = {str(OmegaConf.load(path)["_target_"]) for path in OPTIONS}


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imports(path: Path) -> set[str]:
    """List the top-level packages that a file imports, also in functions and under TYPE_CHECKING."""
    packages = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            packages |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)} imports relatively"
            packages.add(str(node.module).partition(".")[0])
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") in ("import_module", "__import__"):
            module_name = node.args[0]
            text = module_name.values[0] if isinstance(module_name, ast.JoinedStr) else module_name
            packages.add(str(getattr(text, "value", "")).partition(".")[0])
    return packages


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_imports_run_one_way(path):
    forbidden = {
        "trim": {"pipeline", "jobs", "conf", "transformers", "ray", "hydra", "omegaconf"},
        "pipeline": {"jobs", "conf", "hydra", "omegaconf"},
        "jobs": {"ray", "torch", "transformers"},
    }
    assert not imports(path) & forbidden[path.relative_to(ROOT).parts[0]]


def calls(path: Path) -> list[tuple[str, dict[str, object]]]:
    """List a file's calls as `module.name`, with their constant keyword arguments."""
    call_nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    return [
        (
            ast.unparse(node.func),
            {item.arg or "**": getattr(item.value, "value", None) for item in node.keywords},
        )
        for node in call_nodes
    ]


def test_no_input_can_run_code():
    """Pickles hold weights only, or come from our own processes; checkpoints bring no code."""
    # child processes of the benchmark and of the guard unpickle what their parents send; rendered scenes are
    # pickled in the training's own folder
    ours = {"benchmark/driver_memory.py", "train_demo/corpus.py", "run/guard/child.py"}
    ours = {f"pipeline/{name}" for name in ours}
    for path in SOURCES:
        for name, arguments in calls(path):
            assert name not in ("eval", "exec") and not name.endswith("read_pickle"), name_of(path)
            if name.endswith(("pickle.load", "pickle.loads", "joblib.load")):
                assert name_of(path) in ours
            if name == "torch.load":
                assert arguments["weights_only"] is True, name_of(path)
            if name in ("np.load", "numpy.load"):
                assert not arguments.get("allow_pickle"), name_of(path)
            if name.endswith(".from_pretrained"):
                assert arguments["trust_remote_code"] is False, name_of(path)


def test_trim_needs_only_torch():
    used = set().union(*(imports(path) for path in SOURCES if path.is_relative_to(ROOT / "trim")))
    assert used - set(sys.stdlib_module_names) == {"torch", "trim"}


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_files_are_short(path):
    assert len(path.read_text().splitlines()) < 300


def reachable(kind: type) -> set[type]:
    """Collect a dataclass and the dataclasses that are defaults of its fields."""
    kinds = {kind}
    for field in dataclasses.fields(kind):
        if field.default_factory is not dataclasses.MISSING and dataclasses.is_dataclass(
            value := field.default_factory()
        ):
            kinds |= reachable(type(value))
    return kinds


def configuration_classes() -> list[type]:
    """List all configuration classes of `pipeline`; a reducer of `trim` always counts as a whole."""
    named = {name for name in (*TARGETS, *OF_KEY.values(), *OF_RUN) if not name.startswith("trim.")}
    kinds = set().union(*(reachable(get_class(name)) for name in named))
    return sorted(kinds, key=lambda kind: kind.__qualname__)


def test_the_configuration_classes_are_all_found():
    names = {kind.__name__ for kind in configuration_classes()}
    assert names >= {
        *("Cluster", "Decoding", "Imaging", "Images", "Model", "RunOptions", "Storage"),
        *("Task", "Transformers", "UnitLimits", "WebDataset"),
    }


@pytest.mark.parametrize("kind", configuration_classes(), ids=lambda kind: kind.__name__)
def test_every_field_declares_whether_the_fingerprint_counts_it(kind):
    assert kind.__dataclass_params__.frozen
    for field in dataclasses.fields(kind):
        assert isinstance(field.metadata.get("fingerprint"), bool), f"{kind.__name__}.{field.name}"


def test_the_fingerprint_counts_the_fields_of_the_design():
    from pipeline.support.fields import fingerprint_fields

    def counted(name: str) -> set[str]:
        kind = get_class(name)
        return {field.name for field in dataclasses.fields(kind) if field.metadata["fingerprint"]}

    assert counted("pipeline.run.config.RunOptions") == {"limit", "seed"}
    assert counted("pipeline.output.units.UnitLimits") == {
        *("unit_samples", "unit_requests", "unit_bytes", "max_questions")
    }
    for name in ("pipeline.storage.uris.Storage", "pipeline.run.cluster.resources.Cluster", *STAGES):
        assert counted(name) == set()
    for name in (
        "pipeline.models.config.Decoding",
        "pipeline.sources.task.Task",
        *(OF_KEY[key] for key in ("image", "clip_text")),
    ):
        kind = get_class(name)
        assert counted(name) == {field.name for field in dataclasses.fields(kind)}
    with pytest.raises(KeyError):  # a field without the metadata
        fingerprint_fields(dataclasses.make_dataclass("Silent", [("a", int, 0)])())


def composed(command: str, *overrides: str):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(command, list(overrides))


def missing(node) -> list[str]:
    """List the keys of a group that have no default."""
    return [key for key in node if OmegaConf.is_missing(node, key)]


@pytest.mark.slow
@pytest.mark.parametrize("path", OPTIONS, ids=name_of)
def test_every_option_composes_and_builds(path):
    from jobs.common.build import build_target
    from pipeline.support.errors import ConfigError

    group, option = path.parent.name, path.stem
    for command in OPTIONAL.get(group, RUNS):
        config = composed(command, f"{group}={option}")
        for key in missing(config[group]):
            with pytest.raises(ConfigError, match=f"{group}.{key} must be given"):
                build_target(config, group)
            config[group][key] = "1"  # valid as text and as a number
        option_object = build_target(config, group)
        assert f"{type(option_object).__module__}.{type(option_object).__name__}".startswith(
            str(config[group]["_target_"]).split(".")[0]
        )
        assert option_object == build_target(config, group)


@pytest.mark.parametrize("path", OPTIONS, ids=name_of)
def test_the_keys_of_an_option_are_the_fields_of_its_class(path):
    tree = OmegaConf.load(path)
    assert_keys_are_fields(tree, get_class(tree["_target_"]))


def assert_keys_are_fields(tree, kind: type) -> None:
    """Check that keys and fields are the same, so that the YAML shows every option."""
    fields = {field.name: field for field in dataclasses.fields(kind) if field.init}
    assert set(tree) - {"_target_"} == set(fields)
    for name, field in fields.items():
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        if dataclasses.is_dataclass(default):
            assert_keys_are_fields(tree[name], type(default))


@pytest.mark.parametrize("command", RUNS)
def test_the_top_level_keys_are_the_fields_of_the_run(command):
    config = composed(command)
    groups = {path.parent.name for path in OPTIONS} - set(OPTIONAL)
    assert groups <= set(config)
    fields = {field.name for name in OF_RUN[:2] for field in dataclasses.fields(get_class(name))}
    also = {"benchmark": {"benchmark"}, "compare": {"compare", "arms"}}.get(command, set())
    assert set(config) - groups == {*fields, *OF_KEY, *also}
    if command == "compare":
        assert_keys_are_fields(config.compare, Comparing)
    for key, name in OF_KEY.items():
        assert_keys_are_fields(config[key], get_class(name))


def test_the_keys_of_benchmark_are_the_fields_of_its_parts():
    """Parts with a field of the same name share one key, with the default in the YAML."""
    tree = composed("benchmark").benchmark
    kinds = [Benchmark, *(kind for parts in BENCHMARKS.values() for kind in dict.fromkeys(parts.values()))]
    assert len(kinds) == len(set(kinds))
    assert set(tree) == {field.name for kind in kinds for field in dataclasses.fields(kind)}
    for kind in kinds:
        schema = OmegaConf.structured(kind)
        for field in dataclasses.fields(kind):
            assert tree[field.name] == schema[field.name] != MISSING, f"{kind.__name__}.{field.name}"
    for benchmark, parts in BENCHMARKS.items():
        for part in parts if benchmark != "gpu_check" else ():
            assert (ROOT / "pipeline" / "benchmark" / f"{part}.py").is_file()


def test_the_keys_of_evaluate_are_its_fields():
    config = composed("evaluate", "dataset=pope")
    options = {name: config._get_node(name) for name in config if name not in (*OPTIONAL, *STORAGES)}
    assert_keys_are_fields(options, get_class("pipeline.evaluate.evaluate.Evaluation"))


@pytest.mark.parametrize(
    ("command", "kind"),
    [
        ("verify", "pipeline.verify.verify.Verification"),
        ("status", "pipeline.status.status.Look"),
        ("finish", "pipeline.run.finish.Finishing"),
    ],
)
def test_the_keys_of_commands_on_outputs_are_their_fields(command, kind):
    config = composed(command)
    options = {name: config._get_node(name) for name in config if name not in STORAGES}
    assert_keys_are_fields(options, get_class(kind))


def test_the_keys_of_plan_are_its_fields():
    config = composed("plan")
    options = {name: config._get_node(name) for name in config if name not in (*OPTIONAL, *STORAGES)}
    assert_keys_are_fields(options, get_class("pipeline.planner.planner.Planning"))


def test_the_keys_of_the_recipe_are_its_fields():
    assert_keys_are_fields(composed("train_demo").recipe, get_class("pipeline.train_demo.config.Recipe"))


@pytest.mark.parametrize("command", ["run", "annotate"])
def test_the_defaults_are_those_of_the_classes(command):
    """Code that uses the classes without Hydra gets the YAML's defaults."""
    config = composed(command)
    trees = [(config, get_class(name)) for name in OF_RUN[:2]]
    trees += [(config[key], get_class(name)) for key, name in OF_KEY.items()]
    trees += [(config[key], get_class(config[key]["_target_"])) for key in ("storage", "engine")]
    for tree, kind in trees:
        schema = OmegaConf.structured(kind)
        for field in dataclasses.fields(kind):
            assert tree[field.name] == schema[field.name] != MISSING, f"{kind.__name__}.{field.name}"


def test_every_command_is_listed():
    from jobs.main import COMMANDS as LISTED

    assert sorted([*LISTED, "run"]) == COMMANDS, "run.yaml holds the settings that they share"
    assert all((ROOT / "jobs" / f"{command}.py").is_file() for command in LISTED)
