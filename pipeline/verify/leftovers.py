"""Finds files below plan/ that no plan has: what runs have left that did not get to make one."""

import time
from collections.abc import Iterator

from pipeline.output.layout import PLAN
from pipeline.output.plan import Plan
from pipeline.output.plan_parts import is_further_part
from pipeline.storage.uris import Storage, list_times
from pipeline.verify.findings import Finding

# A run that lists a large source writes further parts for hours before the first part, which names them.
_LISTING_S = 24 * 3600.0


def left_parts(folder: str, plan: Plan, storage: Storage) -> Iterator[Finding]:
    """Yield a finding for each further part that no first part names; a repair removes those of yesterday."""
    fs, path = storage.open(folder)
    known = set(plan.parts)
    for name, written in list_times(fs, f"{path}/{PLAN}"):
        if is_further_part(name) and name not in known:
            is_old = time.time() - written > _LISTING_S
            text = "no first part names it: a run was stopped, or came second, while it made the plan"
            if not is_old:
                text += "; or makes it just now, so that it is removed when it is a day old"
            yield Finding("leftover", text, file=f"{PLAN}/{name}", remove=is_old)
