"""Which devices a run takes, and exact float32 products on them."""

from __future__ import annotations

from sisbench.core.errors import UserError


def pick_device(wanted: str) -> str:
    """``auto`` as "cuda" where there is a GPU, else "cpu"; anything else as it stands.

    Raises:
        UserError: the device is not there.
    """
    import torch

    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind, colon, index = wanted.partition(":")
    there = {
        "cpu": 1,
        "cuda": torch.cuda.device_count(),
        "mps": int(torch.backends.mps.is_available()),
    }
    number = index if colon else "0"
    if not number.isdecimal() or int(number) >= there.get(kind, 0):
        raise UserError(f"no device '{wanted}' here", "use device: auto, or see: sisbench doctor")
    return wanted


def pick_devices(wanted: str) -> list[str]:
    """The devices of ``a,b``, one each process; ``all`` takes every GPU.

    Raises:
        UserError: one of them is not there.
    """
    import torch

    if wanted != "all":
        return [pick_device(part.strip()) for part in wanted.split(",")]
    if not torch.cuda.device_count():
        raise UserError("no device 'all' here: there is no GPU", "use device: auto")
    return [f"cuda:{k}" for k in range(torch.cuda.device_count())]


def exact_arithmetic() -> None:
    """No TF32 on GPUs: scores that are reported come from float32 products."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
