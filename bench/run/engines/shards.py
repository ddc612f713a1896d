"""One shard of a run, in this process or one process a device: what every engine is made of."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sisbench.core.devices import exact_arithmetic, pick_devices
from sisbench.core.provenance import provenance
from sisbench.core.shard import Shard
from sisbench.run.engines.local import make_share, spread
from sisbench.run.images import Timer
from sisbench.run.locks import shard_lock
from sisbench.run.runner import announce

if TYPE_CHECKING:
    from sisbench.core.progress import Progress
    from sisbench.run.plan import Plan


def run_shard(plan: Plan, shard: Shard, progress: Progress, patience: float = 1.0) -> Timer:
    """Make the missing images of one shard. The whole run joins the shards, tries again what
    failed in them, and scores.

    Args:
        patience: seconds to wait for another process on the same shard.

    Raises:
        UserError: another process works on this shard or on the whole run; no such device.
    """
    devices = pick_devices(plan.config.engine.device)
    exact_arithmetic()
    with shard_lock(plan.config.folder, shard, patience=patience):
        announce(plan, provenance(devices))
        if len(devices) > 1:
            return spread(plan, devices, progress, shard.share)
        return make_share(plan, devices[0], progress, shard.share)
