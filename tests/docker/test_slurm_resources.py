"""Test which cores and GPUs the Slurm script gives to a node; the stand-in for srun binds as Slurm does."""

import os
import subprocess

import pytest

from tests.docker.files import SLURM

# As since Slurm 22.05: a step has one core unless it is told, whatever the job was given.
SRUN = """#!/bin/bash
cpus=${SRUN_CPUS_PER_TASK:-1}
while [[ "$1" == --* ]]; do
  case "$1" in
    --cpus-per-task=*) cpus=${1#*=} ;;
    --gpus-per-node=*) gpus=${1#*=} ;;
  esac
  shift
done
export SLURM_GPUS_ON_NODE=${gpus##*:}
[[ -n "$SLURM_GPUS_ON_NODE" ]] || unset SLURM_GPUS_ON_NODE
exec taskset -c "$(cut -d, -f1-"$cpus" <<<"$CORES")" "$@"
"""
RAY = """#!/bin/bash
[[ "$1" == start ]] || exit 0
echo "$(nproc) $*" >>"$SEEN"
exec sleep 60
"""
PYTHON = """#!/bin/bash
[[ -n "$HAS_GRPCIO" ]]
"""
# the run: it ends once both nodes have started
TRIMLINE = """#!/bin/bash
for _ in $(seq 200); do [[ $(wc -l <"$SEEN") == 2 ]] && exit 0; sleep 0.1; done
exit 1
"""


@pytest.fixture
def started(tmp_path):
    """Return a function that runs the script and returns, for each node, its cores and Ray's arguments."""

    def run(**variables):
        (tmp_path / "bin").mkdir()
        stand_ins = {
            "srun": SRUN,
            "ray": RAY,
            "trimline": TRIMLINE,
            "python3": PYTHON,
            "scontrol": "#!/bin/bash\necho one\necho two\n",
        }
        for name, text in stand_ins.items():
            (tmp_path / "bin" / name).write_text(text)
            (tmp_path / "bin" / name).chmod(0o755)
        (tmp_path / "seen").touch()
        # nproc obeys OMP_NUM_THREADS, which the tests set
        others = ("SLURM", "SRUN", "OMP")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(others)}
        environment = {
            **kept,
            "PATH": f"{tmp_path}/bin:{os.environ['PATH']}",
            "CORES": ",".join(map(str, sorted(os.sched_getaffinity(0)))),
            "SEEN": str(tmp_path / "seen"),
            "RAY_TMPDIR": str(tmp_path),
            "SLURM_JOB_NODELIST": "one,two",
            **variables,
        }
        subprocess.run(["bash", str(SLURM)], env=environment, check=True, timeout=60)
        lines = (tmp_path / "seen").read_text().splitlines()
        nodes = [line.partition(" ") for line in lines]
        return [(int(cores), arguments.split()) for cores, _, arguments in nodes]

    return run


def test_a_node_has_all_its_cores_and_gpus(started):
    cores = len(os.sched_getaffinity(0))
    nodes = started(SLURM_CPUS_ON_NODE=str(cores), SLURM_GPUS_PER_NODE="h100:8")
    for seen, arguments in nodes:
        assert seen == cores, "Ray's processes may use every core"
        assert {f"--num-cpus={cores}", "--num-gpus=8"} <= set(arguments)
    assert sum("--head" in arguments for _, arguments in nodes) == 1


def test_a_node_that_is_shared_has_its_part(started):
    for seen, arguments in started(SLURM_CPUS_PER_TASK="2", SLURM_CPUS_ON_NODE="64"):
        assert seen == min(2, len(os.sched_getaffinity(0)))
        assert "--num-cpus=2" in arguments and not any("--num-gpus" in argument for argument in arguments)


def ports_of_head(nodes) -> dict[str, int]:
    (head,) = (arguments for _, arguments in nodes if "--head" in arguments)
    return {name: int(value) for name, _, value in (a.partition("=") for a in head) if name.endswith("port")}


@pytest.mark.parametrize("job", [1, 2, 9_999, 10_000, 123_456])
def test_jobs_on_one_node_have_ports_of_their_own(started, job):
    """Jobs of several users may share a node; 10001 is Ray's port for clients, whoever starts it."""
    ports = ports_of_head(started(SLURM_JOB_ID=str(job), SLURM_CPUS_PER_TASK="2", HAS_GRPCIO="1"))
    rest = job % 10_000  # two jobs of which it is the same are rarely there at once
    client, gcs = ports.pop("--ray-client-server-port"), ports.pop("--port")
    assert (client, gcs) == (10_000 + rest, 20_000 + rest), "below the ports that a kernel gives away"
    assert set(ports.values()) == {0}, "any that is free"


def test_without_grpcio_ray_serves_no_clients_and_refuses_a_port_for_them(started):
    assert "--ray-client-server-port" not in ports_of_head(started(SLURM_CPUS_PER_TASK="2"))
