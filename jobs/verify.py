"""`trimline verify`: whether an output is all there."""

from omegaconf import DictConfig

from jobs.common.build import build, build_fields, plain


def run(config: DictConfig) -> int:
    """Verify, print what was found and, if told to, mend it; returns the exit status."""
    from pipeline.storage.uris import Storage
    from pipeline.verify.verify import Verification, verify

    own = {name: value for name, value in plain(config).items() if name != "storage"}
    options: Verification = build_fields(own, Verification, "")
    storage: Storage = build(config, "storage", Storage)
    outputs = verify(options, storage)
    for found in outputs:
        if len(outputs) > 1:
            print(storage.redact(f"{found.output}:"))
        for line in found.lines():
            print(storage.hide(line))
    if all(found.ok for found in outputs):
        return 0
    print(_TO_GO_ON[options.repair])
    return 1


_TO_GO_ON = {
    False: "to go on: the same command with repair=true, then the command that made the output",
    True: "to go on: run the command that made the output again; it makes what is missing and no more",
}


if __name__ == "__main__":
    import sys

    from jobs.common.entry import command_line

    sys.exit(command_line("verify", sys.argv[1:]))
