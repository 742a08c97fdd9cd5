"""Start a real Slurm on this host: a controller and several nodes, in a folder of its own."""

import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tests.support.ports import free_block
from tests.support.processes import end_session

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol")
_SYSTEM = "/usr/sbin:/sbin"  # where Debian has the daemons
# A lost node is noticed within seconds, and its job may start again after cred_expire.
_CONFIG = """
ClusterName=trimline
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/affinity
TaskPluginParam=Cores
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SchedulerParameters=sched_interval=2,bf_interval=2
SlurmdTimeout=10
MinJobAge=3600
ReturnToService=2
"""


def is_installed() -> bool:
    """Tell whether all of Slurm's programs are there."""
    return all(_program(name) for name in PROGRAMS)


def _program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ['PATH']}:{_SYSTEM}")


class Slurm:
    """A controller and nodes that all have the cores of this host; `kill` ends everything."""

    def __init__(self, folder: Path, nodes: tuple[str, ...]) -> None:
        """Start the daemons; the path of `folder` is short, because a socket lies in it."""
        self.folder, self._config = folder, folder / "slurm.conf"
        self._daemons: dict[str, subprocess.Popen] = {}
        self.environment = {"SLURM_CONF": str(self._config)}
        folder.chmod(0o755)
        (folder / "state").mkdir()
        (folder / "munge.key").write_bytes(secrets.token_bytes(128))
        (folder / "munge.key").chmod(0o400)
        self._configure(nodes)
        try:
            self._start_all(nodes)
        except BaseException:
            self.kill()
            raise

    def _start_all(self, nodes: tuple[str, ...]) -> None:
        folder = self.folder
        files = {
            "key-file": "key",
            "socket": "socket",
            "pid-file": "pid",
            "log-file": "log",
            "seed-file": "seed",
        }
        places = [f"--{option}={folder}/munge.{suffix}" for option, suffix in files.items()]
        self._start("munged", "munged", "--foreground", "--force", *places)
        self.wait(lambda: (folder / "munge.socket").exists(), 30)
        self._start("slurmctld", "slurmctld", "-D", "-f", str(self._config))
        for name in nodes:
            self.start_node(name)
        self.wait(lambda: self._ask("sinfo", "--noheader", "--format=%t").split() == ["idle"], 60)

    def _configure(self, nodes: tuple[str, ...]) -> None:
        first, cores = free_block(1 + len(nodes)), len(os.sched_getaffinity(0))
        host = socket.gethostname()
        user = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
        lines = [
            f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={first + 1 + at} CPUs={cores}"
            for at, name in enumerate(nodes)
        ]
        lines.append("PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP")
        head = _CONFIG.format(host=host.split(".")[0], port=first, user=user, folder=self.folder)
        self._config.write_text(head + "\n".join(lines) + "\n")

    def _start(self, name: str, program: str, *arguments: str) -> None:
        with (self.folder / f"{name}.out").open("a") as out:
            self._daemons[name] = subprocess.Popen(
                [str(_program(program)), *arguments],
                env=os.environ | self.environment,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

    def start_node(self, name: str) -> None:
        """Start a node's daemon, also again after `kill_node`."""
        self._start(name, "slurmd", "-D", "-N", name, "-f", str(self._config))

    def _ask(self, *command: str) -> str:
        """Run a command of Slurm; returns what it prints, "" if it fails."""
        result = subprocess.run(command, env=os.environ | self.environment, capture_output=True, text=True)
        return result.stdout if result.returncode == 0 else ""

    def submit(self, *arguments: str | Path, **environment: str) -> str:
        """Run sbatch with a log beside the daemons' logs; returns the job's number."""
        logs = ["--parsable", f"--output={self.folder}/job-%A_%a.log", "--open-mode=append"]
        result = subprocess.run(
            ["sbatch", *logs, *map(str, arguments)],
            env=os.environ | environment | self.environment,
            capture_output=True,
            text=True,
        )
        assert result.returncode == 0, result.stderr
        return result.stdout.strip()

    def jobs(self, number: str) -> list[dict[str, str]]:
        """Return the fields of a job, or of each task of an array in the tasks' order."""
        lines = self._ask("scontrol", "--oneliner", "show", "job", number).splitlines()
        tasks = [dict(re.findall(r"(\S+?)=(\S*)", line)) for line in lines]
        return sorted(tasks, key=lambda task: task.get("ArrayTaskId", ""))

    def processes(self, **variables: str) -> list[int]:
        """List the processes of this Slurm whose environment has these values."""
        wanted = {f"{name}={value}".encode() for name, value in (variables | self.environment).items()}
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if wanted <= set((folder / "environ").read_bytes().split(b"\0")):
                    found.append(int(folder.name))
        return found

    def kill_node(self, name: str) -> None:
        """Kill a node's daemon, its steps and all processes in them with SIGKILL, as if it lost its power."""
        self._daemons[name].kill()
        inside = self.processes(SLURMD_NODENAME=name)
        for process in [*_steps(inside), *inside]:  # a step that outlives its tasks would report them
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self._daemons.pop(name).wait()

    def logs(self) -> str:
        """Return the logs of jobs and daemons."""
        files = sorted(self.folder.glob("*.log")) + sorted(self.folder.glob("*.out"))
        return "\n".join(f"--- {file.name}\n{file.read_text(errors='replace')}" for file in files)

    def wait(self, condition: Callable[[], bool], seconds: float) -> None:
        """Wait until the condition holds; fails with all logs if a daemon ends or the time is over."""
        until = time.monotonic() + seconds
        while not condition():
            ended = [name for name, daemon in self._daemons.items() if daemon.poll() is not None]
            assert not ended and time.monotonic() < until, f"ended: {ended}\n{self.logs()}"
            time.sleep(0.1)

    def kill(self) -> None:
        """Kill the daemons and all that still runs in jobs."""
        for daemon in self._daemons.values():
            daemon.kill()
        inside = self.processes()
        for process in [*_steps(inside), *inside]:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        for daemon in self._daemons.values():
            end_session(daemon.pid)
            daemon.wait()


def _steps(processes: list[int]) -> set[int]:
    """Return those parents of the processes that are Slurm's daemons of a step."""
    parents = set()
    for process in processes:
        with suppress(OSError, IndexError):
            stat = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2]
            parent = int(stat.split()[1])
            if Path(f"/proc/{parent}/comm").read_text().startswith("slurmstepd"):
                parents.add(parent)
    return parents
