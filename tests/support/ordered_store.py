"""Lists keys as a store does, in memory: in the order of S3 or of SeaweedFS, in pages of any size.

Listing by several threads is checked against it, since real servers have a thousand keys a page.
"""

import threading
import time
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterator
from datetime import UTC, datetime
from typing import Any

_WRITTEN = datetime(2026, 11, 30, tzinfo=UTC)


def by_bytes(key: str) -> Any:
    """Sort as S3 does: by the bytes of the whole key, `a-b/1` before `a/1`."""
    return key.encode()


def by_names(key: str) -> Any:
    """Sort as SeaweedFS does: by the names in each folder, `a/1` before `a-b/1`."""
    return [name.encode() for name in key.split("/")]


class OrderedStore:
    """Stands for s3fs; its only call is `list_objects_v2`.

    Args:
        order: `by_bytes` or `by_names`.
        page: keys a page.
        delay_s: that each call waits.
        fails_at: the number of the call, from 1, from which on it raises PermissionError.

    Attributes:
        requests: how many calls there were.
        most_at_once, mean_at_once: how many were under way at one time.
    """

    req_kw: dict[str, Any] = {}  # noqa: RUF012 - as s3fs has it
    protocol = ("s3", "s3a")

    def __init__(
        self, keys: Collection[str], order: Any, page: int, delay_s: float = 0.0, fails_at: int = 1 << 60
    ) -> None:
        self._order, self._page, self._delay_s, self._fails_at = order, page, delay_s, fails_at
        self.keys = sorted(keys, key=order)
        self._places = [order(key) for key in self.keys]
        self._lock = threading.Lock()
        self.requests = self.most_at_once = self._now = self._sum = 0

    @property
    def mean_at_once(self) -> float:
        return self._sum / self.requests

    def call_s3(self, method: str, Bucket: str, Prefix: str, **options: Any) -> dict[str, Any]:
        """Answer as S3 does, as far as listings need it."""
        assert (method, Bucket) == ("list_objects_v2", "bucket")
        with self._lock:
            self.requests += 1
            self._now += 1
            self._sum += self._now
            self.most_at_once = max(self.most_at_once, self._now)
            fails = self.requests >= self._fails_at
        time.sleep(self._delay_s)
        with self._lock:
            self._now -= 1
        if fails:
            raise PermissionError("Forbidden")
        size = min(self._page, options.get("MaxKeys", 1000))
        after = options.get("ContinuationToken") or options.get("StartAfter", "")
        found = []
        for key in self._behind(after, Prefix):
            if len(found) == size:
                return {"Contents": found, "IsTruncated": True, "NextContinuationToken": found[-1]["Key"]}
            found.append({"Key": key, "Size": len(key), "ETag": f'"{key}"', "LastModified": _WRITTEN})
        return {"Contents": found, "IsTruncated": False} if found else {"IsTruncated": False}

    def _behind(self, after: str, prefix: str) -> Iterator[str]:
        """Yield the keys of a prefix behind a key; SeaweedFS passes over the folder of exactly that name."""
        start = bisect_right(self._places, self._order(after)) if after else 0
        if not after and self._order is by_bytes:
            start = bisect_left(self._places, self._order(prefix))
        skipped = f"{after}/" if after and self._order is by_names else None
        for key in self.keys[start:]:
            if key.startswith(prefix) and not (skipped and key.startswith(skipped)):
                yield key
