"""What an image costs besides time: memory, operations, parameters."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
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

    with FlopCounterMode(display=False, custom_mapping=_formulas_torch_lacks()) as counter:
        call()
    return float(counter.get_total_flops())


_ATTENTION = (
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_fused_attention_overrideable",
    "_scaled_dot_product_attention_math_for_mps",
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention",
)
"""Fused attentions: torch counts an operator that it has no formula for as 0."""


def _formulas_torch_lacks() -> dict[Any, Callable[..., int]]:
    """Formulas of the fused attentions that torch's counter does not know (2.6 to 2.14: that of
    CPUs), forward and backward."""
    import torch
    from torch.utils.flop_counter import flop_registry

    formulas: dict[Any, Callable[..., int]] = {}
    for name in _ATTENTION:
        formulas[getattr(torch.ops.aten, name, None)] = attention_flops
        formulas[getattr(torch.ops.aten, f"{name}_backward", None)] = _attention_backward_flops
    return {op: f for op, f in formulas.items() if op is not None and op not in flop_registry}


def attention_flops(
    query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: Any, **__: Any
) -> int:
    """Both products of scaled dot-product attention, from the shapes (B, heads, N, d),
    (B, heads, M, d) and (B, heads, M, e): 2 B heads N M (d + e)."""
    batch, heads, rows, width = query
    return 2 * batch * heads * rows * key[2] * (width + value[3])


def _attention_backward_flops(
    _: Sequence[int],
    query: Sequence[int],
    key: Sequence[int],
    value: Sequence[int],
    *__: Any,
    **___: Any,
) -> int:
    """Five products: the scores once more, and the gradients of values, weights, queries, keys."""
    batch, heads, rows, width = query
    return 2 * batch * heads * rows * key[2] * (3 * width + 2 * value[3])


def parameters(method: Any) -> float | None:
    """Parameters of ``method.net``; None for an adapter without such an attribute."""
    net = getattr(method, "net", None)
    return None if net is None else float(sum(p.numel() for p in net.parameters()))
