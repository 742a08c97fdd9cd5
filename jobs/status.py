"""`trimline status`: how far a run is, told from its output alone."""

from omegaconf import DictConfig

from jobs.common.build import build, build_fields, plain


def run(config: DictConfig) -> int:
    """Look and print; returns the exit status, which does not depend on the run's."""
    from pipeline.status.status import Look, as_json, look
    from pipeline.status.terminal import lines
    from pipeline.storage.uris import Storage

    own = {name: value for name, value in plain(config).items() if name != "storage"}
    options: Look = build_fields(own, Look, "")
    storage: Storage = build(config, "storage", Storage)
    found = look(options, storage)
    if options.json == "-":
        print(as_json(found, storage))
        return 0
    for one in found:
        if len(found) > 1:
            print(storage.redact(f"{one.output}:"))
        for line in lines(one):
            print(storage.hide(line))
    return 0


if __name__ == "__main__":
    import sys

    from jobs.common.entry import command_line

    sys.exit(command_line("status", sys.argv[1:]))
