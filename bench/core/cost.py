"""What an image costs besides time: memory, operations, parameters."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def reset_peak(device: torch.device) -> None:
    """Start a stretch of work whose peak ``peak_memory`` tells."""
    import torch

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif device.type == "cpu":
        with suppress(OSError):  # where it fails, the peak is that of the process so far
            _CLEAR.write_text("5")  # Linux: the peak becomes what is resident now


def peak_memory(device: torch.device) -> float | None:
    """Bytes: on CUDA the most that torch had allocated since ``reset_peak``, weights included; on
    Linux' CPUs the most that the whole process had resident; None elsewhere."""
    import torch

    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    if device.type != "cpu" or not _STATUS.is_file():
        return None
    found = re.search(r"^VmHWM:\s+(\d+) kB", _STATUS.read_text(), re.MULTILINE)
    return 1024.0 * int(found.group(1)) if found else None


def operations(call: Callable[[], Any]) -> float:
    """Floating-point operations of matrix products, convolutions and attention in ``call`` (2 for a
    multiply-add); element-wise ones are not counted."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        call()
    return float(counter.get_total_flops())


def parameters(method: Any) -> float | None:
    """Parameters of ``method.net``; None for an adapter without such an attribute."""
    net = getattr(method, "net", None)
    return None if net is None else float(sum(p.numel() for p in net.parameters()))
