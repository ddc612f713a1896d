"""What the feature networks share: verified weights, kept embeddings, TensorFlow-1 resize."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from sisbench.core import weights
from sisbench.core.errors import UserError
from sisbench.core.file_hash import sha256_of

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

DTYPES = ("float32", "bf16")


def code_hash(*parts: object) -> str:
    """Hash of what changes a row: the parts in their order, as text."""
    return hashlib.sha256("\0".join(str(part) for part in parts).encode()).hexdigest()


def torch_dtype(name: str) -> torch.dtype:
    """``float32`` or ``bf16``.

    Raises:
        UserError: any other name.
    """
    import torch

    if name not in DTYPES:
        raise UserError(f"dtype must be one of {', '.join(DTYPES)}, got {name!r}")
    return {"float32": torch.float32, "bf16": torch.bfloat16}[name]


def weights_file(name: str, given: Path | str | None) -> tuple[Path, str]:
    """(path, sha256) of the registered file, or of the one given.

    Raises:
        Unavailable: it is not there; the message says how to get it.
    """
    found = weights.resolve(name, given)
    return found, sha256_of(found)


class ByContent:
    """Embeddings by the content of the pictures, so that one which many cells or pairs share is
    embedded once; the least recently used go first.

    Args:
        limit: embeddings to keep; those of one call are kept together in any case.
        batch: pictures a forward pass.
    """

    def __init__(self, limit: int, batch: int = 16) -> None:
        self.limit, self.batch = limit, batch
        self._kept: OrderedDict[bytes, Tensor] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def of(
        self, images: Tensor, embed: Callable[..., Tensor], boxes: Tensor | None = None
    ) -> list[Tensor]:
        """Embeddings of (B, 3, H, W) uint8, each (D,).

        Args:
            embed: ``embed(images)``, or ``embed(images, boxes)`` with boxes -> (B, D).
            boxes: (B, 4), part of the content; or None.
        """
        given = (images,) if boxes is None else (images, boxes)
        keys = [
            hashlib.sha256(b"".join(_bytes(x) for x in row)).digest()
            for row in zip(*given, strict=True)
        ]
        missing = list(dict.fromkeys(k for k in keys if k not in self._kept))
        for start in range(0, len(missing), self.batch):
            names = missing[start : start + self.batch]
            places = [keys.index(k) for k in names]
            self._kept.update(zip(names, embed(*(x[places] for x in given)), strict=True))
        found = []
        for key in keys:
            self._kept.move_to_end(key)
            found.append(self._kept[key])
        while len(self._kept) > max(self.limit, len(set(keys))):
            self._kept.popitem(last=False)
        return found


def _bytes(x: Tensor) -> bytes:
    return repr(tuple(x.shape)).encode() + x.contiguous().cpu().numpy().tobytes()


class Compiled:
    """A frozen network by torch.compile, which takes a minute at the first call and pays off from
    some thousand images on; values differ by rounding.

    Args:
        net: in eval mode, without gradients.
        batch: every call is filled up to so many rows: another shape would compile anew.
    """

    def __init__(self, net: nn.Module, batch: int) -> None:
        import torch

        self.batch = batch
        self._call = torch.compile(net, dynamic=False, options={"freezing": True})

    def __call__(self, x: Tensor) -> Tensor:
        """(B, ...) -> (B, ...), B at most ``batch``.

        Raises:
            UserError: the compiler does not work here.
        """
        import torch
        from torch._dynamo.exc import BackendCompilerFailed

        rows, filled = len(x), x
        if rows < self.batch:
            filled = torch.cat([x, x.new_zeros(self.batch - rows, *x.shape[1:])])
            filled = filled.contiguous(memory_format=torch.channels_last)
        try:
            found: Tensor = self._call(filled)
        except BackendCompilerFailed as error:
            reason = str(error).splitlines()[0][:160]
            raise UserError(
                f"torch.compile does not work here: {reason}",
                "install a C++ compiler (g++), or leave out 'compile'",
            ) from error
        return found[:rows]


def resize_tf1(x: Tensor, size: int) -> Tensor:
    """Bilinear resize as TensorFlow 1 does it: source index i * (in / out), no half pixel, no
    antialias, clamped at the far edge; separable, so two index_select and one lerp an axis.

    Args:
        x: (B, C, H, W) float.

    Returns:
        (B, C, size, size) of the same dtype.
    """
    import torch

    for dim in (2, 3):
        n = x.shape[dim]
        source = torch.arange(size, device=x.device, dtype=torch.float32) * (n / size)
        low = source.long().clamp_(max=n - 1)
        high = (low + 1).clamp_(max=n - 1)
        weight = (source - low).to(x.dtype).view(-1, *[1] * (3 - dim))
        x = torch.lerp(x.index_select(dim, low), x.index_select(dim, high), weight)
    return x
