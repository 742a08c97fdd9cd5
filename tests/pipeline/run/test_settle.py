"""Test what is decided when a run is made: the engine, its sizes, and the GPUs of a language model."""

import dataclasses
import json

import pytest

from pipeline.engines.auto import Auto
from pipeline.engines.transformers import Transformers
from pipeline.engines.vllm import Vllm
from pipeline.run.fingerprint import shared_fields
from pipeline.run.pinning import pin_model
from pipeline.run.settle import settle
from pipeline.support.errors import ConfigError
from tests.support.commands import compose, compose_only

WEIGHTS = {"weights": "x"}


@pytest.fixture
def vllm_is_there(tmp_path, monkeypatch):
    """A package called vllm that can be found."""
    package = tmp_path / "packages" / "vllm"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(package.parent))


@pytest.fixture(autouse=True)
def output(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path / "output"


def composed(*overrides):
    return compose("source.path=x", *overrides)


def engine_counted(config):
    return shared_fields(config, WEIGHTS)["engine"]


def test_auto_is_transformers_on_a_cpu(capsys):
    config = composed("engine=auto", "device=cpu")
    assert config.engine == Transformers(group_by_kind=True)
    assert capsys.readouterr().err == "engine=auto is engine=transformers: the run computes on CPUs\n"
    plain = composed("engine=transformers", "device=cpu")
    assert engine_counted(config) == engine_counted(plain)
    assert config.settings["engine"] == plain.settings["engine"]


def test_auto_is_transformers_on_a_gpu_without_vllm(capsys):
    from pipeline.engines.vllm import installed

    if installed():
        pytest.skip("vLLM is installed here")
    assert composed("engine=auto", "device=cuda").engine == Transformers(group_by_kind=True)
    assert "engine=transformers: engine=vllm needs vLLM: pip install" in capsys.readouterr().err


@pytest.mark.usefixtures("vllm_is_there")
def test_auto_is_vllm_on_a_gpu(capsys):
    config = composed("engine=auto", "device=cuda")
    assert isinstance(config.engine, Vllm)
    assert config.engine.max_num_seqs == 256
    assert capsys.readouterr().err == "engine=auto is engine=vllm: GPUs and vLLM are there\n"
    assert engine_counted(config)["kind"] == "Vllm"


def begin(output, engine):
    """Write run.json of an output whose engine has these values."""
    counted = {f"engine.{name}": value for name, value in engine.items()}
    manifest = {"run_id": "1", "fingerprint": "1", "schema_version": 1, "counted": counted}
    output.mkdir(exist_ok=True)
    (output / "run.json").write_text(json.dumps(manifest | {"configuration": {}, "versions": {}}))


def test_an_output_goes_on_with_its_engine_and_its_sizes(output, capsys):
    """Begun on a CPU, by a release whose sizes were numbers, and continued on a GPU."""
    begin(output, {"kind": "Vllm", "max_num_seqs": 64, "max_batched_tokens": 8192, "prefix_cache": True})
    kept = composed("engine=vllm", "device=cuda", "output=output", "+engine.args.api_key=CANARY").settings
    assert kept["engine"]["max_num_seqs"] == 64 and "CANARY" not in str(kept)
    for engine in ("vllm", "auto"):
        config = composed(f"engine={engine}", "device=cuda", "output=output")
        assert (config.engine.max_num_seqs, config.engine.max_batched_tokens) == (64, 8192)
        assert composed(f"engine={engine}", "device=cuda", "output=other").engine != config.engine
    assert "engine=auto is engine=vllm: as in the output so far" in capsys.readouterr().err.splitlines()


def control(engine, *overrides):
    """Settle a control arm that has an output of its own."""
    config = composed("device=cuda", "output=output", *overrides)
    return settle(dataclasses.replace(config, engine=engine), shares_images=True, other_batches=True)


@pytest.mark.usefixtures("vllm_is_there")
@pytest.mark.parametrize("engine", [Vllm(), Auto()])
def test_a_control_arm_goes_on_with_its_halved_sizes(output, engine):
    first = control(engine)
    assert (first.engine.max_num_seqs, first.engine.max_batched_tokens) == (128, 8192)
    assert first.settings["engine"]["max_num_seqs"] == 256, "what was halved"
    begin(output, engine_counted(first))
    assert control(engine).engine == first.engine
    begin(output, {"kind": "Vllm", "max_num_seqs": 32, "max_batched_tokens": 4096, "prefix_cache": True})
    older = control(engine).engine
    assert (older.max_num_seqs, older.max_batched_tokens) == (32, 4096)


def test_sizes_that_are_given_are_halved_at_every_start(output):
    given = Vllm(max_num_seqs=20000)
    first = control(given)
    assert (first.engine.max_num_seqs, first.engine.max_batched_tokens) == (10000, 10000)
    begin(output, engine_counted(first))
    assert control(given).engine == first.engine
    assert control(Transformers()).engine.max_batch == 32


def test_batches_of_one_kind_are_those_of_new_outputs(output):
    """An output whose run.json does not tell of kinds goes on as it was, with its fingerprint."""
    earlier = {"kind": "Transformers", "token_budget": 16384, "max_batch": 64, "prefix_cache": True}
    begin(output, earlier)
    for engine in ("transformers", "auto"):
        goes_on = composed(f"engine={engine}", "device=cpu", "output=output")
        assert goes_on.engine.group_by_kind is False
        assert engine_counted(goes_on) == earlier
    new = composed("device=cpu", "output=other")
    assert new.engine.group_by_kind and new.settings["engine"]["group_by_kind"]
    assert engine_counted(new) == earlier | {"group_by_kind": True}
    begin(output, engine_counted(new))
    assert composed("device=cpu", "output=output").engine == new.engine
    begin(output, earlier | {"token_budget": 8192, "max_batch": 32})
    halved = control(Transformers()).engine
    assert (halved.max_batch, halved.group_by_kind) == (32, False)


def test_the_prefix_cache_of_a_gpu_follows_the_questions_of_an_image():
    gpu = ("engine=vllm", "device=cuda")
    assert not composed(*gpu, "reducer=trim", "task=vqa").engine.prefix_cache
    assert composed(*gpu, "reducer=full", "task=vqa").engine.prefix_cache
    assert not composed(*gpu, "reducer=full", "task=caption").engine.prefix_cache
    assert composed("engine=vllm", "device=cpu", "reducer=trim", "task=caption").engine.prefix_cache


def test_as_many_gpus_are_booked_as_share_a_language_model():
    parallel = ("engine=vllm", "engine.tensor_parallel=2")
    assert composed(*parallel, "device=cuda").cluster.generate.num_gpus == 2
    assert composed("engine=vllm", "device=cuda").cluster.generate.num_gpus is None
    with pytest.raises(ConfigError, match=r"engine\.tensor_parallel=2 and cluster\.generate\.num_gpus=1 "):
        composed(*parallel, "device=cuda", "cluster.generate.num_gpus=1")
    with pytest.raises(ConfigError, match=r"engine\.tensor_parallel=2 needs GPUs"):
        composed(*parallel, "device=cpu")


def test_gpus_that_would_be_idle_are_refused():
    for engine in ("transformers", "vllm"):
        with pytest.raises(ConfigError, match=r"cluster\.generate\.num_gpus=2: .*engine\.tensor_parallel"):
            composed(f"engine={engine}", "device=cuda", "cluster.generate.num_gpus=2")
        assert composed(f"engine={engine}", "device=cuda", "cluster.generate.num_gpus=1")


def test_models_that_share_a_gpu_must_share_its_memory():
    gpu, half = ("engine=vllm", "device=cuda"), "cluster.generate.num_gpus=0.5"
    with pytest.raises(ConfigError, match=r"num_gpus=0\.5: 2 .*engine\.gpu_memory_utilization .*as 0\.45"):
        composed(*gpu, half)
    with pytest.raises(ConfigError, match=r"num_gpus=0\.5: 2 "):
        composed(*gpu, half, "cluster.encode.num_gpus=0.5", "cluster.generate.max_actors=4")
    alone = ("cluster.generate.num_gpus=0.9", "cluster.generate.num_gpus=1")
    for fits in ([half, "engine.gpu_memory_utilization=0.45"], [half, "cluster.encode.num_gpus=0.5"]):
        assert composed(*gpu, *fits).cluster.generate.num_gpus == 0.5
    for share in alone:
        composed(*gpu, share)
    composed("engine=transformers", "device=cuda", half)


def test_the_device_of_a_cluster_to_be_joined_must_be_said_where_sizes_follow_from_it(output):
    joined = ("cluster=ray", "cluster.address=10.0.0.1:6379")
    for engine in ("auto", "vllm"):
        with pytest.raises(ConfigError, match=rf"engine={engine}: say device=cuda or device=cpu"):
            composed(f"engine={engine}", *joined)
    assert composed(*joined).engine.group_by_kind
    sizes = {"max_num_seqs": 64, "max_batched_tokens": 8192, "prefix_cache": True}
    given = composed("engine=vllm", *joined, *(f"engine.{name}={value}" for name, value in sizes.items()))
    begin(output, {"kind": "Vllm", **sizes})
    for engine in ("auto", "vllm"):
        goes_on = composed(f"engine={engine}", *joined, "output=output").engine
        assert goes_on == given.engine, "as the output says"


def test_a_damaged_output_pins_no_model(output):
    output.mkdir()
    (output / "run.json").write_text("{")
    config = compose_only("source.path=x", "output=output")
    for decides in (pin_model, settle):
        with pytest.raises(ConfigError, match=r"run\.json in .* is damaged"):
            decides(config)
