"""Lists an S3 prefix by several threads: an idle one takes a part of another's range of keys."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from queue import Empty, Queue
from threading import Condition
from typing import Any  # pages of S3 listings, which have no types

import fsspec

from pipeline.storage.key_ranges import LAST, KeyRange, between, doubtful_folders, is_ordered
from pipeline.support.parallel import THREADS

Item = dict[str, Any]

_PAGES_AHEAD = 64  # that have been listed and not yet been taken
_PAGES_BEFORE_ENTERING = 2  # of one folder, before its range is divided into the folder and the rest
_PAGES_ALONE = 16  # are listed before threads start: several that share few pages ask far more than one does
_SPARE_REQUESTS = 8  # that may find less than half a page, beyond as many as find more


def parallel_pages(
    fs: fsspec.AbstractFileSystem,
    start: str,
    threads: int = THREADS,
    *,
    after: str = "",
    until: str = "",
    cuts: Sequence[str] = (),
) -> Iterator[list[Item]]:
    """Yield the objects whose keys begin with the prefix `start`, each once, a page at a time, in no order.

    Memory does not grow with the objects. A prefix of few pages is listed without threads. The pages of a
    larger one are listed `threads` at a time, however they lie: in one folder, in many, or deep below.

    Args:
        after: lists names behind this one alone, as they follow `start`; "": all.
        until: lists names up to those that begin with this alone; "": all.
        cuts: where names are known to be, in order, so that the threads need not look for them.

    Raises:
        OSError: the store lists in no order, after it seemed to have one; or what the store raises.
    """
    bucket, _, prefix = start.partition("/")
    whole = KeyRange(prefix, prefix, f"{prefix}{after}" if after else "", until or None)
    listing = _Listing(fs, bucket, whole)
    more = {"StartAfter": whole.after} if after else {}
    for _ in range(1 if cuts else _PAGES_ALONE):
        own, more = listing.list_page(whole, more)
        yield own
        if whole.is_done:
            return
    listing.share(whole, cuts)
    with ThreadPoolExecutor(threads) as pool:
        workers = [pool.submit(listing.work, whole, more)]
        workers += [pool.submit(listing.work) for _ in range(threads - 1)]
        try:
            yield from listing.taken(workers=threads)
            for worker in workers:
                worker.result()
        finally:
            listing.stop()
            while wait(workers, timeout=0.02).not_done:
                listing.drop_found()


class _Listing:
    """Holds the ranges of one listing, and the pages that its threads have found."""

    def __init__(self, fs: fsspec.AbstractFileSystem, bucket: str, whole: KeyRange) -> None:
        self._fs, self._bucket = fs, bucket
        self._found: Queue[list[Item] | None] = Queue(_PAGES_AHEAD)
        self._changed = Condition()  # guards all that follows, and the ranges
        self._active, self._waiting = {whole}, list[KeyRange]()
        self._letters = set("0123456789")  # of names, as far as they have been seen
        self._folders: dict[str, bool | None] = {}  # whether there is one; None: a thread is looking
        self._is_ordered, self._is_stopped = True, False
        self._is_split = bool(whole.after or whole.stop)  # then a key out of order might be lost
        self._spare, self._page = _SPARE_REQUESTS, 1  # the most keys of a page

    def taken(self, workers: int) -> Iterator[list[Item]]:
        """Yield the pages that are found, until all threads have ended."""
        while workers:
            page = self._found.get()
            workers -= page is None
            if page:
                yield page

    def work(self, part: KeyRange | None = None, more: dict[str, str] | None = None) -> None:
        """List ranges, as a thread, until there is none left."""
        try:
            while part is not None or (part := self._next_range()) is not None:
                more = more or ({"StartAfter": part.after} if part.after else {})
                while not part.is_done and not self._is_stopped:
                    own, more = self.list_page(part, more)
                    self._found.put(own)
                part = more = None
        except BaseException:
            self.stop()
            raise
        finally:
            self._found.put(None)

    def share(self, whole: KeyRange, cuts: Sequence[str]) -> None:
        """Let threads share what is left, if `cuts` are given in parts of some two pages.

        The names are so that all stores agree on what is before and behind them (`doubtful_folders`).
        """
        behind = [name for name in cuts if name > whole.name] if self._is_ordered else []
        step = 2 * max(1, len(cuts) - len(behind))
        for name in reversed(behind[step - 1 :: step]):
            self._add(whole.split(name))
        self._spare = _SPARE_REQUESTS

    def stop(self) -> None:
        """Let the threads end."""
        with self._changed:
            self._is_stopped = True
            self._changed.notify_all()

    def drop_found(self) -> None:
        """Make room for threads that wait to hand over what nobody takes any more."""
        try:
            while True:
                self._found.get_nowait()
        except Empty:
            return

    def list_page(self, part: KeyRange, more: dict[str, str]) -> tuple[list[Item], dict[str, str]]:
        """List a page of a range; returns the range's own objects, and how to ask for the next page."""
        page, after = self._request(Prefix=part.prefix, **more), more.get("StartAfter", "")
        items = page.get("Contents", [])
        keys = [item["Key"] for item in items]
        more = {"ContinuationToken": page["NextContinuationToken"]} if page.get("IsTruncated") else {}
        with self._changed:
            self._page = max(self._page, len(keys))
            spent = 1 if part.last else 0  # a range's first request was spent when it was split off
            own = part.take(keys, is_last=not more)
            self._spare += (2 if 2 * len(own) >= self._page else 0) - spent
            self._require_order(keys, after)
            if part.inside is not None and part.inside == part.skipped:
                more = {"StartAfter": f"{part.inside}{LAST}"}  # another range has the folder
            if part.is_done:
                self._active.discard(part)
                self._changed.notify_all()
            else:
                self._changed.notify()
        return [items[place] for place in own], more

    def _request(self, **options: Any) -> dict[str, Any]:
        page = self._fs.call_s3("list_objects_v2", Bucket=self._bucket, **self._fs.req_kw, **options)
        return dict(page)

    def _require_order(self, keys: list[str], after: str) -> None:
        """Check that ranges can be relied on: that the store lists in an order that is known here."""
        goes_on = not keys or keys[0] > after or keys[0].split("/") > after.split("/")
        if not is_ordered(keys) or not goes_on:
            if self._is_split:
                raise OSError("the store lists keys in no known order; give the listing as source.listing")
            self._is_ordered = False

    def _next_range(self) -> KeyRange | None:
        """Return a range to list: a waiting one, or one that is split off; None when all are listed."""
        while True:
            with self._changed:
                doubtful = [] if self._waiting or self._is_stopped else self._split()
                if self._is_stopped or not (self._active or self._waiting):
                    return None
                if self._waiting:
                    part = self._waiting.pop()
                    self._active.add(part)
                    if self._waiting:
                        self._changed.notify()
                    return part
                if not doubtful:
                    self._changed.wait()
            for folder in doubtful:
                page = self._request(Prefix=folder, MaxKeys=1)
                with self._changed:
                    self._folders[folder] = bool(page.get("Contents"))
                    self._spare -= 1
                    self._changed.notify_all()

    def _split(self) -> list[str]:
        """Split a running range, so that some wait; or return folders that must be looked for before."""
        if not self._is_ordered or self._spare <= 0:
            return []
        running = [part for part in self._active if part.last and not part.is_done]
        for part in running:
            if part.pages_inside >= _PAGES_BEFORE_ENTERING and part.inside != part.skipped:
                self._add(part.enter_folder())
                return []
        for part, name in self._middles(running):
            folders = doubtful_folders(part.base, name)
            unknown = [folder for folder in folders if folder not in self._folders]
            if unknown:
                self._folders.update(dict.fromkeys(unknown))
                return unknown
            if all(self._folders[folder] is False for folder in folders):
                self._add(part.split(name))
                return []
        return []

    def _middles(self, parts: list[KeyRange]) -> list[tuple[KeyRange, str]]:
        """Return names halfway through ranges, the best first: of the highest folder, of the widest range."""
        found = []
        for part in parts:
            self._letters.update(part.name)
            middle = between(part.name, part.stop, self._letters)
            if middle is not None:
                name, width = middle
                found.append((part.base.count("/"), -width, name, part))
        return [(part, name) for _, _, name, part in sorted(found, key=lambda item: item[:3])]

    def _add(self, part: KeyRange) -> None:
        self._spare -= 1
        self._waiting.append(part)
        self._is_split = True
