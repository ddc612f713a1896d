"""One shard of a run, in this process or one process a device: what every engine is made of."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from sisbench.core.devices import exact_arithmetic, pick_devices
from sisbench.core.provenance import provenance
from sisbench.core.shard import Shard
from sisbench.run.engines.local import make_share, spread
from sisbench.run.images import Timer
from sisbench.run.locks import shard_lock
from sisbench.run.preflight import check_disk, known, preflight
from sisbench.run.runner import announce
from sisbench.run.stored import pending

if TYPE_CHECKING:
    from sisbench.core.progress import Progress
    from sisbench.run.plan import Plan


def run_shard(plan: Plan, shard: Shard, progress: Progress, patience: float = 1.0) -> Timer:
    """Make the missing images of one shard. The whole run joins the shards, tries again what
    failed in them, and scores.

    Args:
        patience: seconds to wait for another process on the same shard.

    Raises:
        UserError: another process works on this shard or on the whole run; no such device; a disk
            that is too full.
    """
    devices = pick_devices(plan.config.engine.device)
    exact_arithmetic()
    with shard_lock(plan.config.folder, shard, patience=patience):
        announce(plan, provenance(devices))
        plan = _able(plan, shard, progress)
        if len(devices) > 1:
            return spread(plan, devices, progress, shard.share)
        return make_share(plan, devices[0], progress, shard.share)


def _able(plan: Plan, shard: Shard, progress: Progress) -> Plan:
    """The plan with the cells alone of which the shard lacks images that can be made, as far as is
    known before anything is loaded; the reasons of others are said."""
    able = [c for c in plan.cells if plan.wanted(c) and not c.reason]
    work = [c for c in able if pending(plan.config.folder, c, shard.share)]
    found = preflight(plan, work)
    work = [c for c in work if c.key not in found]
    check_disk(plan, work, progress, shard.share)
    plan = known(plan, found, False, progress)
    return replace(plan, only=frozenset(c.key for c in work))
