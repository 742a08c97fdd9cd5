"""What can be said of images, services, manifests and the batch script without running any of them."""

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
    MANIFESTS,
    ROOT,
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
    """What a checker says; "" if all is well."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=200)
    return "" if done.returncode == 0 else done.stdout + done.stderr


def schema_faults(path: Path) -> str:
    """Against the compose specification's schema, which check-jsonschema brings along."""
    return checked(BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", path)


def test_hadolint_has_nothing_to_say(tmp_path):
    assert checked(BIN / "hadolint", *DOCKERFILES) == ""
    (tmp_path / "Dockerfile").write_text("FROM python\nRUN cd /tmp && pip install ray\n")
    assert "DL3006" in checked(BIN / "hadolint", tmp_path / "Dockerfile")


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_an_image_is_pinned_small_and_without_root(path):
    found = instructions(path)
    bases = [one.text for one in found if one.name == "FROM"]
    assert len(bases) == 2 and all(re.search(r":[\d.]+\S*@sha256:[0-9a-f]{64}", base) for base in bases)
    last = [one for one in found if one.stage == 1]
    assert [one.text for one in last if one.name == "USER"] == ["10001"]
    assert "HEALTHCHECK" in {one.name for one in last}
    copied = [one.text for one in last if one.name == "COPY"]
    assert copied == ["--from=build /opt/trimline /opt/trimline"], "neither pip's leavings nor the sources"


def test_the_images_differ_in_torch_alone():
    cpu, cuda = ({(one.stage, one.name, one.text) for one in instructions(path)} for path in DOCKERFILES)
    assert {name for _, name, _ in cpu ^ cuda} == {"ENV"}
    (one,) = cuda - cpu
    assert "NVIDIA_VISIBLE_DEVICES=all" in one[2]


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


def test_services_wait_for_services_that_can_be_waited_for():
    services = compose()["services"]
    for service in services.values():
        assert service.get("image", "").startswith("trimline") or "@sha256:" in service["image"]
        for name, how in service.get("depends_on", {}).items():
            healthy = how["condition"] == "service_healthy"
            assert not healthy or "test" in services[name]["healthcheck"]


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_manifests_have_the_fields_of_kuberay_and_of_kubernetes(path):
    there = manifest(path)
    assert faults(there) == []
    templates = list(pods(there))
    assert len(templates) == 2
    for pod in templates:
        kubernetes_validate.validate(pod, "1.33", strict=True)
        (container,) = pod["spec"]["containers"]
        assert container["image"] == f"trimline:{VERSION}"
        assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
    assert f'rayVersion: "{RAY}"' in path.read_text()


def test_faults_of_manifests_are_found():
    there = manifest(MANIFESTS[0])
    there["spec"]["headGroupSpec"]["replica"] = 1
    there["spec"]["workerGroupSpecs"][0]["maxReplicas"] = "4"
    there["spec"]["authOptions"]["mode"] = "tokens"
    del there["spec"]["workerGroupSpecs"][0]["groupName"]
    assert len(faults(there)) == 4
    (head, _) = pods(there)
    head["spec"]["containers"][0]["envFrom"] = "secret"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(head, "1.33", strict=True)


def test_the_job_s_cluster_is_the_cluster_s():
    cluster, job = (manifest(path)["spec"] for path in MANIFESTS)
    assert job["rayClusterSpec"] == cluster


def test_ray_s_options_are_options_of_ray_start():
    told = subprocess.run(
        [BIN / "ray", "start", "--help"], capture_output=True, text=True, timeout=200
    ).stdout
    there = set(re.findall(r"--[a-z-]+", told))
    given = set()
    for path in MANIFESTS:
        spec = manifest(path)["spec"]
        spec = spec.get("rayClusterSpec", spec)
        for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
            given |= {f"--{name}" for name in group["rayStartParams"]}
    texts = [yaml.safe_dump(compose(), width=10_000), SLURM.read_text().replace("\\\n", " ")]
    for text in texts:
        for line in re.findall(r"ray start.*", text):
            given |= set(re.findall(r"--[a-z-]+", line.partition("&&")[0]))
    assert {"--head", "--num-cpus", "--dashboard-host", "--address", "--block"} <= given <= there


def overrides() -> list[list[str]]:
    """What is given to `trimline annotate` in docker/."""
    texts = [manifest(path)["spec"].get("entrypoint", "") for path in MANIFESTS]
    texts += [compose()["services"]["annotate"]["command"][0]]
    texts += [
        SLURM.read_text().replace('"$@"', "").replace('"$address:$port"', "host:6379").replace("&\n", "\n")
    ]
    found = [line for text in texts for line in re.findall(r"trimline annotate (\S+=[^\n]*)", text)]
    return [shlex.split(line) for line in found if "..." not in line]


@pytest.mark.parametrize("given", overrides(), ids=lambda given: given[-2])
def test_commands_compose(given, tmp_path, monkeypatch):
    from tests.support.commands import compose as composed

    monkeypatch.chdir(tmp_path)
    config = composed(*given)
    assert config.options.log == "json" and config.cluster.address in ("auto", "host:6379")


def test_all_commands_are_found():
    assert len(overrides()) == 3


def test_the_batch_script_is_sound():
    assert checked("bash", "-n", SLURM) == ""
    assert checked(BIN / "shellcheck", SLURM) == ""
