"""Tells which files of a listing belong to outputs of Trimline, which are no part of any source."""

import json
import os
import re

import fsspec
from fsspec.implementations.local import LocalFileSystem

from pipeline.storage.names import as_path, as_text
from pipeline.storage.opener import read_local
from pipeline.storage.uris import protocols_of

# What an output has in its folder; see `pipeline/output/layout.py`.
MARKS = ("run.json", "comparison.json")
OWN_NAMES = frozenset(
    {
        *(
            "plan",
            "data",
            "done",
            "slices",
            "summary.json",
            "_SUCCESS",
            "README.md",
            "evaluation.json",
            *MARKS,
        ),
        *("comparison.parquet", "report.html", "report.txt", ".probe"),
    }
)
_MOST_BYTES = 16 << 20  # of run.json
# A store is asked about a folder only if it holds such a file: each question is a request.
_TELLING = re.compile(
    r"(?:plan/(?:renewed-)?\d{6,}(?:-[0-9a-f]{16})?\.parquet|(?:done|slices)/[^/]+\.json"
    r"|data/\d{6,}-\d{8,}-\d{8,}(?:-end)?\.parquet|[^/]*\.(?:json|html|md|txt)|_SUCCESS)"
)


class OutputFiles:
    """Finds the files below a folder that a Trimline output wrote.

    Of an output below the folder these are all files. Of one whose folder is the listed one, or lies above
    it, these are the files that Trimline writes.

    Args:
        root: canonical URI of the listed folder.
        outputs: canonical URIs of outputs; others are recognised by what they hold.
    """

    def __init__(self, fs: fsspec.AbstractFileSystem, root: str, outputs: tuple[str, ...]) -> None:
        self._fs = fs
        self._root = root.rstrip("/")
        self._is_local = isinstance(fs, LocalFileSystem)
        self._asks = self._is_local or bool({"s3", "memory"} & protocols_of(fs))
        self._real = self._real_uri(self._root)
        self._outputs = {self._real_uri(output) for output in outputs}
        self._above = [
            self._real.removeprefix(output).lstrip("/")
            for output in self._outputs
            if self._real == output or self._real.startswith(f"{output}/")
        ]
        self._known: dict[str, bool] = {}
        self._free_folder: str | None = None  # the local folder of the last file that no output wrote
        if "" not in self._above and self._is_output(""):
            self._above.append("")

    def holds(self, name: str) -> bool:
        """Tell whether an output wrote the file with this path below the folder."""
        folder = name.rpartition("/")[0]
        if folder == self._free_folder:
            return False
        for above in self._above:
            if f"{above}/{name}".lstrip("/").split("/")[0] in OWN_NAMES:
                return True
        parts = folder.split("/") if folder else []
        held = any(self._is_inner("/".join(parts[:depth]), name) for depth in range(1, len(parts) + 1))
        if self._is_local and not held and not self._above:
            self._free_folder = folder
        return held

    def _is_inner(self, folder: str, name: str) -> bool:
        known = self._known.get(folder)
        if known is None:
            if f"{self._real}/{folder}" in self._outputs:
                known = True
            elif not self._is_local and not _TELLING.fullmatch(name.removeprefix(f"{folder}/")):
                return False
            else:
                known = self._is_output(folder)
            if len(self._known) > 10_000:
                self._known.clear()  # the listing is sorted: folders do not come again
            self._known[folder] = known
        return known

    def _is_output(self, folder: str) -> bool:
        return self._asks and any(self._is_mark(f"{self._root}/{folder}".rstrip("/"), mark) for mark in MARKS)

    def _is_mark(self, folder: str, mark: str) -> bool:
        """Tell whether a file is one that Trimline wrote into its output."""
        path = as_path(self._fs._strip_protocol(folder))
        try:
            if self._is_local:
                data = read_local(f"{path}/{mark}", path, _MOST_BYTES, follow_links=False)
            else:
                data = bytes(self._fs.cat_file(f"{path}/{mark}"))
            tree = json.loads(data)
        except (OSError, ValueError, RecursionError):
            return False
        keys = {"fingerprint", "run_id"} if mark == "run.json" else {"arms", "baseline"}
        return isinstance(tree, dict) and keys <= tree.keys()

    def _real_uri(self, uri: str) -> str:
        if not self._is_local:
            return uri.rstrip("/")
        return as_text(f"file://{os.path.realpath(as_path(self._fs._strip_protocol(uri)))}").rstrip("/")
