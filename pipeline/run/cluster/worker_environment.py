"""Says what Ray gives each worker: environment variables, and the packages of this installation."""

import os
import re
from collections.abc import Callable
from typing import Any

from pipeline.run.cluster.ship import NAMES, ROOT
from pipeline.storage.secrets import FAIR, OWN_VALUES, OWN_VARIABLES

Json = dict[str, Any]  # of Ray's runtime environments
# Variables that are read while a process starts, so that setting them later would be too late.
_EARLY = re.compile(r"(LD|PYTHON|OMP|MKL|KMP|NCCL|CUDA|MALLOC|RAY|LC)_?\w*|PATH|HOME|TMPDIR|LANG|TZ")
_SECRET = re.compile(r"TOKEN|SECRET|PASS|KEY|CREDENTIAL|AUTH", re.IGNORECASE)


def worker_environment(given: Json) -> Json:
    """Return the runtime environment of all workers.

    Ray writes a runtime environment into its logs and tables, and with it the values of `env_vars`. So
    those that need not be there when a process starts are set by a function that the worker then runs.

    Args:
        given: `cluster.runtime_env`.
    """
    variables = {str(name): str(value) for name, value in (given.get("env_vars") or {}).items()}
    early = {name: value for name, value in variables.items() if is_early(name)}
    late = variables.keys() - early.keys()
    hidden = {OWN_VARIABLES: " ".join(name for name in late if len(variables[name]) >= FAIR)}
    hidden |= {OWN_VALUES: os.environ[OWN_VALUES]} if OWN_VALUES in os.environ else {}
    # If two actors' threads spin at OpenMP's barriers on the same cores, they slow each other down tenfold.
    waiting = {"OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE")}
    return {
        **given,
        "env_vars": waiting | _allocator(variables) | early,
        "worker_process_setup_hook": _setup({name: variables[name] for name in late} | hidden),
    }


def _allocator(variables: Json) -> Json:
    """Let torch's allocator on a GPU grow its segments, unless it is configured already.

    Batches differ in size and keys and values grow by each token: what fixed segments give back lies in
    pieces too small for the next batch.
    """
    given = {"PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"} & (variables.keys() | os.environ.keys())
    return {} if given else {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}


def without_secrets(given: Json) -> Json:
    """Return a runtime environment with the variables alone that Ray may show to the cluster's users.

    A submitted command reads the others from its own configuration, on the node where it runs.
    """
    early = {name: value for name, value in (given.get("env_vars") or {}).items() if is_early(str(name))}
    others = {name: value for name, value in given.items() if name != "env_vars"}
    return others | ({"env_vars": early} if early else {})


def is_early(name: str) -> bool:
    """Tell whether a variable must be there when a process starts, and is no secret by its name."""
    return _EARLY.fullmatch(name) is not None and _SECRET.search(name) is None


def _setup(secrets: dict[str, str]) -> Callable[[], None]:
    """Make the function that a worker runs when it starts: it sets variables, and imports this installation.

    After this function, Ray puts the driver's working directory first on the worker's path: there, a user's
    own folder called `pipeline` would be imported in place of ours. The function is a closure, because Ray
    pickles closures by value; a function of a module would have to be imported from our packages first. On a
    node without this installation, the packages are in the folder that Ray has copied, or installed there.
    """
    root, names = str(ROOT), NAMES

    def hook() -> None:
        import os
        import sys
        from contextlib import suppress
        from importlib.machinery import ModuleSpec, PathFinder

        os.environ.update(secrets)
        sent = [path for path in (os.getcwd(), *sys.path) if "working_dir_files" in path][:1]  # noqa: PTH109
        places = [root, *sent] if os.path.isdir(os.path.join(root, "pipeline")) else sent  # noqa: PTH112, PTH118

        # uses no names of this module, which are not pickled along
        def find_spec(name: str, path: object = None, target: object = None) -> ModuleSpec | None:
            return PathFinder.find_spec(name, places) if path is None and name in names else None

        finder = type("OurPackages", (), {"find_spec": staticmethod(find_spec)})
        sys.meta_path.insert(0, finder)  # type: ignore[arg-type]
        with suppress(ImportError):  # where the packages are missing, that is told later
            from pipeline.support.cache import use_private_compiler_cache

            use_private_compiler_cache()

    return hook
