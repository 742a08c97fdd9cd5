"""Lists S3 page by page."""

from collections.abc import Iterator
from typing import Any  # pages of S3 listings, which have no types

import fsspec


def s3_pages(fs: fsspec.AbstractFileSystem, start: str, **options: Any) -> Iterator[dict[str, Any]]:
    """Yield the pages of S3's listing of the prefix `start`, a thousand keys each.

    s3fs's own listings hold all keys in memory, some 3 KiB each.
    """
    bucket, _, prefix = start.partition("/")
    continuation: dict[str, str] | None = {}
    while continuation is not None:
        page = fs.call_s3(
            "list_objects_v2", Bucket=bucket, Prefix=prefix, **fs.req_kw, **options, **continuation
        )
        yield page
        more = page.get("IsTruncated")
        continuation = {"ContinuationToken": page["NextContinuationToken"]} if more else None
