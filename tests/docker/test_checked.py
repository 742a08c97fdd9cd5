"""Static checks of images, services, manifests and the batch script."""

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from tests.docker.files import (
    COMPOSE,
    DOCKERFILES,
    FINISH,
    MANIFESTS,
    POLICY,
    ROOT,
    SLICES,
    SLURM,
    Instruction,
    compose,
    instructions,
    manifest,
)
from tests.docker.kuberay import faults, pods

BIN = Path(sys.executable).parent
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
RAY = re.search(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)[1]


def checked(*command: str | Path) -> str:
    """Run a checker and return its output; "" if it finds nothing."""
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=200)
    return "" if result.returncode == 0 else result.stdout + result.stderr


def schema_faults(path: Path) -> str:
    """Check a file against the compose specification's schema, which check-jsonschema bundles."""
    return checked(BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", path)


def test_hadolint_finds_nothing(tmp_path):
    assert checked(BIN / "hadolint", *DOCKERFILES) == ""
    (tmp_path / "Dockerfile").write_text("FROM python\nRUN cd /tmp && pip install ray\n")
    assert "DL3006" in checked(BIN / "hadolint", tmp_path / "Dockerfile")


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_an_image_is_pinned_small_and_without_root(path):
    parsed = instructions(path)
    bases = [instruction.text for instruction in parsed if instruction.name == "FROM"]
    assert len(bases) == 2 and all(re.search(r":[\d.]+\S*@sha256:[0-9a-f]{64}", base) for base in bases)
    last = [instruction for instruction in parsed if instruction.stage == 1]
    assert [instruction.text for instruction in last if instruction.name == "USER"] == ["10001"]
    assert "HEALTHCHECK" in {instruction.name for instruction in last}
    copied = [instruction.text for instruction in last if instruction.name == "COPY"]
    assert copied == ["--from=build /opt/trimline /opt/trimline"], "neither pip's caches nor the sources"


def test_the_images_differ_in_torch_and_vllm_alone():
    cpu, cuda = (
        {(instruction.stage, instruction.name, instruction.text) for instruction in instructions(path)}
        for path in DOCKERFILES
    )
    assert {name for _, name, _ in cpu ^ cuda} == {"COPY", "ENV", "RUN"}
    own = [text for _, _, text in sorted(cuda - cpu)]
    assert len(own) == 5
    assert own[0] == "constraints-vllm.txt ./" and "--constraint constraints-vllm.txt" in own[2]
    assert own[1].endswith("'.[demo,cluster,vllm]'")
    assert "NVIDIA_VISIBLE_DEVICES=all" in own[3]
    assert "gcc" in own[4], "Triton compiles what vLLM runs on a GPU"


def test_instructions_are_read_as_docker_reads_them(tmp_path):
    (tmp_path / "Dockerfile").write_text("FROM a\n# no\nRUN b \\\n  # nor this\n    && c\nFROM d\nUSER e\n")
    assert instructions(tmp_path / "Dockerfile") == [
        *(Instruction(0, "FROM", "a"), Instruction(0, "RUN", "b && c")),
        *(Instruction(1, "FROM", "d"), Instruction(1, "USER", "e")),
    ]


def test_the_services_are_of_the_compose_specification(tmp_path):
    assert schema_faults(COMPOSE) == ""
    (tmp_path / "compose.yaml").write_text(COMPOSE.read_text().replace("shm_size:", "shm_sice:"))
    assert "shm_sice" in schema_faults(tmp_path / "compose.yaml")


def test_services_wait_only_for_services_with_a_healthcheck():
    services = compose()["services"]
    for service in services.values():
        assert service.get("image", "").startswith("trimline") or "@sha256:" in service["image"]
        for name, dependency in service.get("depends_on", {}).items():
            healthy = dependency["condition"] == "service_healthy"
            assert not healthy or "test" in services[name]["healthcheck"]


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_manifests_have_the_fields_of_kuberay_and_of_kubernetes(path):
    resource = manifest(path)
    assert faults(resource) == []
    templates = list(pods(resource))
    assert len(templates) == 2
    for pod in templates:
        kubernetes_validate.validate(pod, "1.33", strict=True)
        (container,) = pod["spec"]["containers"]
        assert container["image"] == f"trimline:{VERSION}"
        assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
    assert f'rayVersion: "{RAY}"' in path.read_text()


def test_the_network_policy_closes_the_pods_of_the_manifests():
    policy = manifest(POLICY)
    kubernetes_validate.validate(policy, "1.33", strict=True)
    labels = policy["spec"]["podSelector"]["matchLabels"].items()
    exposed = {port["containerPort"] for pod in all_pods() for port in pod["spec"]["containers"][0]["ports"]}
    assert all(labels <= pod["metadata"]["labels"].items() for pod in all_pods())
    opened = {port["port"] for rule in policy["spec"]["ingress"] for port in rule.get("ports", [])}
    assert opened == {8080, 8265, 52365} and exposed - opened == {6379}, "the GCS is for the pods alone"


def all_pods():
    return [pod for path in MANIFESTS for pod in pods(manifest(path))]


def test_faults_of_manifests_are_found():
    resource = manifest(MANIFESTS[0])
    resource["spec"]["headGroupSpec"]["replica"] = 1
    resource["spec"]["workerGroupSpecs"][0]["maxReplicas"] = "4"
    resource["spec"]["authOptions"]["mode"] = "tokens"
    del resource["spec"]["workerGroupSpecs"][0]["groupName"]
    assert len(faults(resource)) == 4
    (head, _) = pods(resource)
    head["spec"]["containers"][0]["envFrom"] = "secret"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(head, "1.33", strict=True)


def test_the_job_has_the_same_cluster_specification():
    cluster, job = (manifest(path)["spec"] for path in MANIFESTS)
    assert job["rayClusterSpec"] == cluster


def test_a_cluster_that_scales_is_used_by_its_job(tmp_path, monkeypatch):
    """A run whose actors have no max_actors keeps those that fit on the nodes of its start."""
    from tests.support.commands import compose_only as composed

    monkeypatch.chdir(tmp_path)
    cluster, job = (manifest(path)["spec"] for path in MANIFESTS)
    (workers,) = cluster["workerGroupSpecs"]
    (container,) = workers["template"]["spec"]["containers"]
    gpus = int(container["resources"]["limits"]["nvidia.com/gpu"])
    assert workers["maxReplicas"] > workers["replicas"]
    run = composed(*shlex.split(job["entrypoint"])[2:]).cluster
    assert run.generate.num_actors == workers["replicas"] * gpus
    assert run.generate.max_actors == workers["maxReplicas"] * gpus
    assert 1 == run.encode.num_actors < run.encode.max_actors
    named = re.findall(r"cluster\.\w+\.max_actors=\d+", MANIFESTS[0].read_text())
    assert len(named) == 2 and set(named) <= set(job["entrypoint"].split()), "raycluster.yaml says the same"


def test_options_given_to_ray_start_exist():
    help_text = subprocess.run(
        [BIN / "ray", "start", "--help"], capture_output=True, text=True, timeout=200
    ).stdout
    known = set(re.findall(r"--[a-z-]+", help_text))
    used = set()
    for path in MANIFESTS:
        spec = manifest(path)["spec"]
        spec = spec.get("rayClusterSpec", spec)
        for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
            used |= {f"--{name}" for name in group["rayStartParams"]}
    texts = [yaml.safe_dump(compose(), width=10_000), SLURM.read_text().replace("\\\n", " ")]
    for text in texts:
        for line in re.findall(r"(?:ray start |\bnode |\bhead\+?=).*", text):
            used |= set(re.findall(r"--[a-z-]+", line.partition("&&")[0]))
    assert {"--head", "--num-cpus", "--dashboard-host", "--address", "--block"} <= used <= known


def overrides() -> list[list[str]]:
    """Return the arguments of every `trimline annotate` in docker/."""
    texts = [manifest(path)["spec"].get("entrypoint", "") for path in MANIFESTS]
    texts += [compose()["services"]["annotate"]["command"][0]]
    texts += [
        SLURM.read_text()
        .replace('"${arguments[@]}"', "")
        .replace('"$command"', "annotate")
        .replace('"$address:$port"', "host:6379")
        .replace("&\n", "\n")
    ]
    lines = [line for text in texts for line in re.findall(r"trimline annotate (\S+=[^\n]*)", text)]
    return [shlex.split(line) for line in lines if "..." not in line]


@pytest.mark.parametrize("arguments", overrides(), ids=lambda arguments: arguments[-2])
def test_commands_compose(arguments, tmp_path, monkeypatch):
    from tests.support.commands import compose_only as composed

    monkeypatch.chdir(tmp_path)
    config = composed(*arguments)
    assert config.options.log == "json" and config.cluster.address in ("auto", "host:6379")


def test_all_commands_are_found():
    assert len(overrides()) == 3


@pytest.mark.parametrize("path", [SLURM, FINISH, SLICES], ids=lambda path: path.name)
def test_a_script_is_sound(path):
    assert checked("bash", "-n", path) == ""
    assert checked(BIN / "shellcheck", path) == ""
