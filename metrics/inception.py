"""Row maker ``inception``: 2048 features of the FID Inception V3, which FID and KID share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Self

import numpy as np

from sisbench.core.errors import UserError
from sisbench.core.fit import fill, fold_batch_norms
from sisbench.core.state_dict import read_state
from sisbench.metrics.base import Context, ImageBatch, RowMaker
from sisbench.metrics.extractors import (
    Compiled,
    code_hash,
    resize_tf1,
    torch_dtype,
    weights_file,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

VERSION = 1
SIZE = 299
PREPROCESS = ("tf1", "clean", "pytorch_fid")
FEATURES = 2048


class Inception(RowMaker):
    """Features of torch-fidelity's ``FeatureExtractorInceptionV3`` (its class holds the parameters;
    the runner here folds batch norms, uses channels_last and inference mode).

    Args:
        weights: a state dict in torch-fidelity's layout; None takes the registered ``inception``.
        preprocess: ``tf1`` (torch-fidelity: TF1 bilinear, (x - 128) / 128), ``clean`` (clean-fid:
            PIL bicubic a float channel, clipped, not quantised), or ``pytorch_fid`` (bilinear with
            half-pixel centres, x / 127.5 - 1).
        dtype: ``float32``, or ``bf16`` for the trunk (never mix the two in one distance).
        device: where the network runs.
        batch: images a forward pass.
        compile: run the network through torch.compile; no row depends on it beyond rounding.

    Rows: ``features`` (B, 2048) float32.

    Raises:
        Unavailable: no weights file; says how to get it.
    """

    name = "inception"
    weights = "inception"
    resize_field = "fid"
    resize = MappingProxyType(
        {
            "tf1": "299 x 299 by TensorFlow 1's bilinear rule (torch-fidelity), (x - 128) / 128",
            "clean": "299 x 299 by PIL's bicubic, float channels, clipped, (x - 128) / 128",
            "pytorch_fid": "299 x 299 bilinear with half-pixel centres, x / 127.5 - 1",
        }
    )

    def __init__(
        self,
        weights: Path | str | None = None,
        preprocess: str = "tf1",
        dtype: str = "float32",
        device: str = "cpu",
        batch: int = 16,
        compile: bool = False,
    ) -> None:
        if preprocess not in PREPROCESS:
            raise UserError(
                f"preprocess must be one of {', '.join(PREPROCESS)}, got {preprocess!r}"
            )
        self.preprocess, self.dtype, self.device, self.batch = preprocess, dtype, device, batch
        self.compile, self._dtype = compile, torch_dtype(dtype)
        self.path, self.sha256 = weights_file(type(self).weights, weights)
        self._net: Callable[[Tensor], Tensor] | None = None

    @classmethod
    def from_context(cls, context: Context) -> Self:
        return cls(
            weights=context.weights.get(cls.weights),
            preprocess=context.fid,
            dtype=context.dtype,
            device=context.device,
            compile=context.compile,
        )

    def fingerprint(self) -> str:
        return code_hash(self.name, VERSION, self.sha256, self.preprocess, self.dtype)

    def rows(self, batch: ImageBatch) -> dict[str, np.ndarray]:
        self.check(batch)
        return {"features": self.features(batch.the("image"))}

    def features(self, images: Tensor) -> np.ndarray:
        """(B, 3, H, W) uint8 -> (B, 2048) float32."""
        import torch

        if self._net is None:
            self._net = self._build()
        parts = []
        with torch.inference_mode():
            for part in images.split(self.batch):
                x = self._prepare(part.to(self.device))
                x = x.to(self._dtype).contiguous(memory_format=torch.channels_last)
                parts.append(self._net(x).float().cpu())
        return torch.cat(parts).numpy() if parts else np.empty((0, FEATURES), np.float32)

    def _build(self) -> Callable[[Tensor], Tensor]:
        import torch

        with torch.device("meta"):
            net = trunk()
        fill(net, read_state(self.path), str(self.path), dropped=r"^fc\.")
        net.eval().requires_grad_(False)
        fold_batch_norms(net)
        net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        net.to(self.device, self._dtype)
        return Compiled(net, self.batch) if self.compile else net

    def _prepare(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 -> (B, 3, 299, 299) float32 as the network wants it."""
        import torch
        from torch.nn import functional

        if self.preprocess == "clean":
            return (_resize_clean(images) - 128) / 128
        x = images.float()
        if self.preprocess == "tf1":
            return (resize_tf1(x, SIZE) - 128) / 128
        x = functional.interpolate(x / 255, (SIZE, SIZE), mode="bilinear", align_corners=False)
        return torch.add(torch.mul(x, 2), -1)


def _resize_clean(images: Tensor) -> Tensor:
    """(B, 3, H, W) uint8 -> (B, 3, 299, 299) float32 in [0, 255]: PIL's bicubic on each channel as
    float32, clipped, as clean-fid does it."""
    import torch
    from PIL import Image

    planes = images.cpu().flatten(0, 1).numpy().astype(np.float32)
    resized = [
        np.asarray(Image.fromarray(plane).resize((SIZE, SIZE), Image.Resampling.BICUBIC))
        for plane in planes
    ]
    stacked = np.clip(np.stack(resized), 0, 255).reshape(-1, 3, SIZE, SIZE)
    return torch.from_numpy(stacked).to(images.device)


def trunk() -> nn.Module:
    """The network up to its pooled 2048 features, built from torch-fidelity's blocks, under the
    names of its state dict, without weights."""
    from torch import nn
    from torch_fidelity import feature_extractor_inceptionv3 as blocks

    conv = blocks.BasicConv2d
    layers = {
        "Conv2d_1a_3x3": conv(3, 32, kernel_size=3, stride=2),  # 149
        "Conv2d_2a_3x3": conv(32, 32, kernel_size=3),
        "Conv2d_2b_3x3": conv(32, 64, kernel_size=3, padding=1),
        "MaxPool_1": nn.MaxPool2d(3, stride=2),  # 73
        "Conv2d_3b_1x1": conv(64, 80, kernel_size=1),
        "Conv2d_4a_3x3": conv(80, 192, kernel_size=3),
        "MaxPool_2": nn.MaxPool2d(3, stride=2),  # 35
        "Mixed_5b": blocks.InceptionA(192, pool_features=32),
        "Mixed_5c": blocks.InceptionA(256, pool_features=64),
        "Mixed_5d": blocks.InceptionA(288, pool_features=64),
        "Mixed_6a": blocks.InceptionB(288),  # 17
        "Mixed_6b": blocks.InceptionC(768, channels_7x7=128),
        "Mixed_6c": blocks.InceptionC(768, channels_7x7=160),
        "Mixed_6d": blocks.InceptionC(768, channels_7x7=160),
        "Mixed_6e": blocks.InceptionC(768, channels_7x7=192),
        "Mixed_7a": blocks.InceptionD(768),  # 8
        "Mixed_7b": blocks.InceptionE_1(1280),
        "Mixed_7c": blocks.InceptionE_2(2048),
        "AvgPool": nn.AdaptiveAvgPool2d(1),
        "Flatten": nn.Flatten(),
    }
    net = nn.Sequential()
    for name, layer in layers.items():
        net.add_module(name, layer)
    return net
