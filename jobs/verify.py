"""Runs `trimline verify`: checks that an output is complete and undamaged."""

from omegaconf import DictConfig

from jobs.common.build import build, build_top
from jobs.common.storages import source_storage
from jobs.main import run_as_script


def run(config: DictConfig) -> int:
    """Verify, print the findings and, with `repair=true`, repair; returns the exit status."""
    from pipeline.storage.uris import Storage
    from pipeline.support.plain_text import printable
    from pipeline.verify.verify import Verification, verify

    options = build_top(config, Verification, ("storage", "source_storage"))
    storage = build(config, "storage", Storage)
    outputs = verify(options, storage, source_storage(config, storage))
    for output in outputs:
        if len(outputs) > 1:
            print(printable(storage.redact(f"{output.output}:")))
        for line in output.lines():
            print(printable(storage.hide(line)))
    if all(output.ok for output in outputs):
        return 0
    print(_NEXT_STEP[options.repair])
    return 1


_NEXT_STEP = {
    False: "to go on: the same command with repair=true, then the command that made the output",
    True: "to go on: run the command that made the output again; it makes what is missing and no more",
}


if __name__ == "__main__":
    run_as_script(__file__)
