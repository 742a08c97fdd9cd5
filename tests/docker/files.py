"""Parsers for the files in docker/."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
DOCKERFILES = [DOCKER / "Dockerfile", DOCKER / "Dockerfile.cuda"]
MANIFESTS = sorted((DOCKER / "kubernetes").glob("ray*.yaml"))
POLICY = DOCKER / "kubernetes" / "networkpolicy.yaml"
COMPOSE = DOCKER / "compose.yaml"
SLURM = DOCKER / "slurm" / "annotate.sbatch"
FINISH = DOCKER / "slurm" / "finish.sbatch"
SLICES = DOCKER / "kubernetes" / "slices.sh"
FINISH_JOB = DOCKER / "kubernetes" / "finish.yaml"


@dataclass(frozen=True)
class Instruction:
    """One instruction of a Dockerfile; `stage` counts its FROMs, from 0."""

    stage: int
    name: str
    text: str


def instructions(path: Path) -> list[Instruction]:
    """Parse a Dockerfile: without comments, with continued lines joined."""
    lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n", " ", "\n".join(lines))
    parsed, stage = [], -1
    for line in filter(str.strip, joined.splitlines()):
        name, _, text = line.partition(" ")
        stage += name == "FROM"
        parsed.append(Instruction(stage, name, " ".join(text.split())))
    return parsed


def compose() -> dict[str, Any]:
    """Load compose.yaml with the default values of its variables."""
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", COMPOSE.read_text())
    assert "${" not in text, "a variable without a default would have to be set"
    return yaml.safe_load(text)


def manifest(path: Path) -> dict[str, Any]:
    """Load the only resource of a manifest."""
    (resource,) = yaml.safe_load_all(path.read_text())
    return resource
