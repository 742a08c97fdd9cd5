"""Builds the storage of the source from the configuration."""

from typing import TYPE_CHECKING

from omegaconf import DictConfig

from jobs.common.build import build_fields, to_dict
from jobs.common.written_out import CREDENTIALS
from pipeline.support.errors import ConfigError

if TYPE_CHECKING:
    from pipeline.storage.uris import Storage


def source_storage(config: DictConfig, storage: "Storage") -> "Storage":
    """Build how the source is reached: by default as the output is.

    Credentials that are only those of `storage` do not count where they do not fit: without any (`anon`), and
    beside another key.

    Raises:
        ConfigError: a value of `source_storage` is wrong.
    """
    from pipeline.storage.uris import Storage

    fields = to_dict(config.source_storage)
    fields.pop("_target_", None)
    unfit = CREDENTIALS if fields["anon"] else ("token",) if fields["key"] != storage.key else ()
    for name in unfit:
        if fields[name] == getattr(storage, name):
            fields[name] = None
    try:
        return build_fields(fields, Storage, "source_storage")
    except ConfigError as error:
        text = str(error)
        raise ConfigError(
            text if "source_storage" in text else text.replace("storage.", "source_storage.")
        ) from None
