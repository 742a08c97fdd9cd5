"""Test which slice a task of a Slurm array makes, and the manifests of a run in slices on Kubernetes."""

import os
import shlex
import shutil
import subprocess

import kubernetes_validate
import pytest
import yaml

from tests.docker.files import FINISH_JOB, MANIFESTS, SLICES, SLURM, manifest
from tests.docker.kuberay import faults, pods

TRIMLINE = """#!/bin/bash
printf '%s\\n' "$@" >"$SEEN"
"""
RAY = """#!/bin/bash
[[ "$1" != start ]] || exec sleep 60
"""
ARRAY = ("ID", "MIN", "MAX", "COUNT")


@pytest.fixture
def task(tmp_path):
    """Return a function that runs the batch script as a task of an array: what is `trimline` given?"""
    stand_ins = {"ray": RAY, "trimline": TRIMLINE, "scontrol": "#!/bin/bash\necho one\n"}
    stand_ins["srun"] = '#!/bin/bash\nwhile [[ "$1" == --* ]]; do shift; done\nexec "$@"\n'
    for name, text in stand_ins.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "SRUN"))}
    environment = {**kept, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SEEN": str(tmp_path / "seen")}
    environment |= {"RAY_TMPDIR": str(tmp_path), "SLURM_JOB_NODELIST": "one", "SLURM_CPUS_PER_TASK": "1"}

    def run(numbers: tuple[int, ...] | None, *arguments: str) -> tuple[list[str], str]:
        pairs = zip(ARRAY, numbers or (), strict=bool(numbers))
        own = {f"SLURM_ARRAY_TASK_{name}": str(number) for name, number in pairs}
        command = ["bash", str(SLURM), *arguments]
        result = subprocess.run(command, env=environment | own, capture_output=True, text=True, timeout=60)
        if result.returncode:
            assert result.returncode == 2 and result.stderr.count("\n") == 1, result.stderr
            return [], result.stderr
        return (tmp_path / "seen").read_text().splitlines()[3:], ""

    return run


@pytest.mark.parametrize(
    ("numbers", "given", "slices"),
    [
        (None, [], []),
        (None, ["slice=2/4"], ["slice=2/4"]),
        ((2, 0, 3, 4), [], ["slice=2/4"]),
        ((2, 2, 2, 1), ["slice=%a/4"], ["slice=2/4"]),
        ((9, 3, 9, 2), ["slice=%a/12"], ["slice=9/12"]),
    ],
    ids=["no array", "one by hand", "a whole array", "one again", "some again"],
)
def test_a_task_makes_its_own_slice(task, numbers, given, slices):
    passed, _ = task(numbers, *given, "source.path=/a b/%album")
    assert sorted(passed) == sorted([*slices, "source.path=/a b/%album"])


@pytest.mark.parametrize("command", ["annotate", "compare"])
def test_the_first_argument_may_name_the_command(task, tmp_path, command):
    passed, _ = task((2, 0, 3, 4), command, "source.path=compare")
    assert sorted(passed) == ["slice=2/4", "source.path=compare"]
    assert (tmp_path / "seen").read_text().startswith(f"{command}\n")


@pytest.mark.parametrize(
    ("numbers", "given", "reason"),
    [
        ((2, 2, 2, 1), [], "does not say how many slices there are: write slice=%a/N"),
        ((0, 0, 0, 1), [], "does not say how many slices there are: write slice=%a/N"),
        ((1, 1, 4, 4), [], "does not say how many slices there are: write slice=%a/N"),
        ((2, 0, 2, 2), [], "does not say how many slices there are: write slice=%a/N"),
        (
            (1, 0, 3, 4),
            ["slice=1/4"],
            "with slice=1/4 all tasks of the array would make the same slice: write",
        ),
    ],
    ids=["one of several", "the first of several", "from one on", "with a gap", "the same for all"],
)
def test_an_array_that_leaves_the_slices_open_is_refused(task, numbers, given, reason):
    passed, error = task(numbers, *given)
    assert passed == [] and reason in error


def print_slices(script, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(["bash", str(script), *arguments], capture_output=True, text=True, timeout=60)


def test_each_slice_is_a_ray_job_of_its_own(tmp_path, monkeypatch):
    from tests.support.commands import compose_only as composed

    monkeypatch.chdir(tmp_path)
    result = print_slices(SLICES, "3")
    assert result.returncode == 0, result.stderr
    jobs = [job for job in yaml.safe_load_all(result.stdout) if job]
    one = manifest(MANIFESTS[1])
    assert [job["metadata"]["name"] for job in jobs] == [f"trimline-{at}-of-3" for at in range(3)]
    for number, job in enumerate(jobs):
        assert faults(job) == []
        assert job["spec"]["rayClusterSpec"] == one["spec"]["rayClusterSpec"]
        arguments = shlex.split(job["spec"]["entrypoint"])
        assert composed(*arguments[2:]).options.slice == f"{number}/3"
        arguments.remove(f"slice={number}/3")
        assert arguments == shlex.split(one["spec"]["entrypoint"])


def test_slices_of_a_manifest_that_is_not_understood_are_refused(tmp_path):
    shutil.copy(SLICES, tmp_path)
    text = MANIFESTS[1].read_text().replace("    trimline annotate ", "    python -m jobs annotate ")
    (tmp_path / "rayjob.yaml").write_text(text)
    refused = print_slices(tmp_path / SLICES.name, "2")
    assert refused.returncode != 0 and "rayjob.yaml has no" in refused.stderr
    assert refused.stdout == "", "kubectl would apply it"
    assert print_slices(SLICES).returncode == print_slices(SLICES, "0").returncode == 2


def test_the_job_that_ends_a_run_on_kubernetes():
    job = manifest(FINISH_JOB)
    kubernetes_validate.validate(job, "1.33", strict=True)
    (pod,) = pods(job)
    (container,) = pod["spec"]["containers"]
    (head, _) = pods(manifest(MANIFESTS[1]))
    for field in ("image", "envFrom", "securityContext"):
        assert container[field] == head["spec"]["containers"][0][field]
    command, output = container["args"]
    assert command == "finish" and output in manifest(MANIFESTS[1])["spec"]["entrypoint"].split()
