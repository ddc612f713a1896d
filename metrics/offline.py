"""Set-level scores that need no download: FD, KD, precision and recall on two small networks.

Same formulas as FID, KID and Kynkäänniemi et al.'s precision and recall, other features: they
carry names of their own and may be compared within a run, with no published score.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from sisbench.metrics.base import Context, ImageBatch, RowMaker, Rows, Score
from sisbench.metrics.extractors import code_hash, weights_file
from sisbench.metrics.frechet import FID
from sisbench.metrics.kid import KID
from sisbench.metrics.neighbours import Precision, Recall

if TYPE_CHECKING:
    from torch import Tensor, nn

_VERSION = 1
_BATCH = 32
TOY_SIDE, LITE_SIDE = 64, 224
_TASKS = KID.tasks


class _PooledFeatures(RowMaker):
    """Rows from a small network in float32.

    Args:
        weights: its file; None takes the known one.
        device: where it runs.

    Rows: ``features`` (B, d) float32.
    """

    def __init__(self, weights: Path | str | None = None, device: str = "cpu") -> None:
        self.device = device
        self.path, self.sha256 = self._file(weights)
        self._net: Any = None  # of this maker's own class

    @classmethod
    def from_context(cls, context: Context) -> Self:
        given = context.weights.get(cls.weights) if cls.weights else None
        return cls(weights=given, device=context.device)

    def fingerprint(self) -> str:
        return code_hash(self.name, _VERSION, self.sha256)

    def rows(self, batch: ImageBatch) -> dict[str, np.ndarray]:
        self.check(batch)
        return {"features": self.features(batch.the("image"))}

    def features(self, images: Tensor) -> np.ndarray:
        """(B, 3, H, W) uint8 -> (B, d) float32."""
        import torch

        if self._net is None:
            self._net = self._build()
        with torch.inference_mode():
            parts = [self._pooled(part.to(self.device)) for part in images.split(_BATCH)]
        return torch.cat(parts).float().cpu().numpy()

    def _file(self, given: Path | str | None) -> tuple[Path, str]:
        return weights_file(self.weights, given)

    def _build(self) -> nn.Module:
        raise NotImplementedError

    def _pooled(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 -> (B, d)."""
        raise NotImplementedError


class ToyFeatures(_PooledFeatures):
    """72 features of the toy parser, which comes with sisbench: the means over the picture of its
    first map (16 channels: colours and edges) and of its deepest one (56, at 1/16: parts of a
    face).

    Rows: ``features`` (B, 72) float32.
    """

    name = "toy-features"
    bundled = "segmenters/toy_weights.safetensors"
    resize = "64 x 64 by PIL's bilinear rule, (x - 127.5) / 127.5"

    def _file(self, given: Path | str | None) -> tuple[Path, str]:
        from sisbench.core.file_hash import sha256_of
        from sisbench.segmenters.toy import COMMITTED

        path = COMMITTED if given is None else Path(given)
        return path, sha256_of(path)

    def _build(self) -> nn.Module:
        import torch

        from sisbench.core.fit import fill, fold_batch_norms
        from sisbench.core.state_dict import read_state
        from sisbench.segmenters.toy import ToyNet

        with torch.device("meta"):
            net = ToyNet()
        fill(net, read_state(self.path), str(self.path))
        net.eval().requires_grad_(False)
        fold_batch_norms(net)
        return net.to(self.device)

    def _pooled(self, images: Tensor) -> Tensor:
        import torch

        from sisbench.core.resize import resize_bilinear_pil

        x = resize_bilinear_pil(images, (TOY_SIDE, TOY_SIDE)).float() / 127.5 - 1
        assert self._net is not None  # features has built it
        maps: list[Tensor] = self._net.features(x)
        return torch.cat([maps[0].mean((2, 3)), maps[-1].mean((2, 3))], dim=1)


class EfficientNetFeatures(_PooledFeatures):
    """1,280 pooled features of EfficientNet-lite0 with ImageNet weights, which the extra
    ``efficientnet`` brings.

    Rows: ``features`` (B, 1280) float32.

    Raises:
        Unavailable: the extra is not installed; says how to get it.
        UserError: the file's hash is another one.
    """

    name = "efficientnet-lite0"
    weights = "efficientnet-lite0"
    resize = "224 x 224 by PIL's bilinear rule, (x - 127) / 128"

    def _build(self) -> nn.Module:
        from sisbench.metrics.efficientnet import load_efficientnet_lite0

        return load_efficientnet_lite0(self.device, self.path)

    def _pooled(self, images: Tensor) -> Tensor:
        from sisbench.core.resize import resize_bilinear_pil
        from sisbench.metrics.efficientnet import normalise

        assert self._net is not None  # features has built it
        x = resize_bilinear_pil(images, (LITE_SIDE, LITE_SIDE)).float() / 255
        pooled: Tensor = self._net(normalise(x))
        return pooled


class _FD(FID):
    """A Frechet distance on other features than Inception's."""

    digits = 3
    on_request = True
    protocol_fields = ("real",)
    tasks = _TASKS

    def reduce(self, rows: Rows, real: Rows | None = None, *, seed: int = 0) -> Score:
        score = super().reduce(rows, real, seed=seed)
        return _with_marks(score, rows["features"].shape[1])


def _with_marks(score: Score, d: int) -> Score:
    """Says where a covariance cannot have full rank."""
    n = min(score.n, score.n_real or score.n)
    if n > d:
        return score
    said = f"not more images than the {d:,} features: a covariance of rank {n - 1} at most"
    return replace(score, marks=(*score.marks, said))


class _KD(KID):
    """A kernel distance on other features than Inception's."""

    on_request = True
    protocol_fields = ("real",)


class FDToy(_FD):
    """Frechet distance to the real set on 72 features of the bundled toy parser. Never FID, and
    comparable to no published score: the network has seen drawn faces only.

    FD = |m1 - m2|^2 + tr(S1 + S2 - 2 sqrt(S1 S2)), mean and covariance (n - 1) in float64. Lower
    is better, bounded by 0. Biased upwards by a term that shrinks with n: compare only equal n and
    equal real sets. With 72 images or fewer a covariance has rank n - 1 and the score says so. The
    standard error is the infinitesimal jackknife over the generated images.

    Rows: ``features`` (n, 72) float32.

    >>> x = np.random.default_rng(0).normal(size=(50, 8))
    >>> round(FDToy().reduce({"features": x + 1}, {"features": x}).value, 6)
    8.0
    """

    name = "fd_toy"
    title = "FD-toy"
    maker = "toy-features"


class KDToy(_KD):
    """Kernel distance to the real set on 72 features of the bundled toy parser. Never KID, and
    comparable to no published score.

    The unbiased squared MMD with the kernel (a.b / d + 1)^3 over all pairs, as for KID. Lower is
    better; about 0 for equal distributions and possibly negative, so that different n may be
    compared.

    Rows: ``features`` (n, 72) float32.

    >>> x = np.random.default_rng(0).normal(size=(60, 8))
    >>> KDToy().reduce({"features": x[:30] + 1}, {"features": x[30:]}).value > 1
    True
    """

    name = "kd_toy"
    title = "KD-toy"
    maker = "toy-features"


class PrecisionToy(Precision):
    """Share of generated images that lie among the real ones on 72 features of the bundled toy
    parser: within the distance of some real image to its third neighbour. Higher is better.
    Comparable to no published score, and only for equal n: radii shrink as sets grow. The interval
    resamples the generated images; the real set is taken as given.

    Rows: ``features`` (n, 72) float32; at least 4 images on both sides.

    >>> x = np.random.default_rng(0).normal(size=(40, 4))
    >>> PrecisionToy().reduce({"features": x[:20] + 50}, {"features": x[20:]}).value
    0.0
    """

    name = "precision_toy"
    title = "precision-toy"
    maker = "toy-features"


class RecallToy(Recall):
    """Share of real images that lie among the generated ones on 72 features of the bundled toy
    parser: within the distance of some generated image to its third neighbour. Higher is better;
    falls where a method repeats itself. Comparable to no published score, and only for equal n. No
    interval: it rests on all generated images at once.

    Rows: ``features`` (n, 72) float32; at least 4 images on both sides.

    >>> x = np.random.default_rng(0).normal(size=(40, 4))
    >>> RecallToy().reduce({"features": x}, {"features": x}).value
    1.0
    """

    name = "recall_toy"
    title = "recall-toy"
    maker = "toy-features"


class FDEffNetLite0(_FD):
    """Frechet distance to the real set on 1,280 pooled features of EfficientNet-lite0 (ImageNet
    weights). Never FID, and comparable to no published score.

    FD = |m1 - m2|^2 + tr(S1 + S2 - 2 sqrt(S1 S2)), mean and covariance (n - 1) in float64. Lower
    is better, bounded by 0. Biased upwards by a term that shrinks with n, and large at n below
    1,280, where a covariance has rank n - 1 and the score says so: compare only equal n and equal
    real sets. The standard error is the infinitesimal jackknife over the generated images.

    Rows: ``features`` (n, 1280) float32.

    >>> x = np.random.default_rng(0).normal(size=(50, 8))
    >>> round(FDEffNetLite0().reduce({"features": x + 1}, {"features": x}).value, 6)
    8.0
    """

    name = "fd_effnetlite0"
    title = "FD-EffNetLite0"
    maker = "efficientnet-lite0"
    digits = 2


class KDEffNetLite0(_KD):
    """Kernel distance to the real set on 1,280 pooled features of EfficientNet-lite0 (ImageNet
    weights). Never KID, and comparable to no published score.

    The unbiased squared MMD with the kernel (a.b / d + 1)^3 over all pairs, as for KID. Lower is
    better; about 0 for equal distributions and possibly negative. Unlike the Frechet distance it
    has no bias at small n.

    Rows: ``features`` (n, 1280) float32.

    >>> x = np.random.default_rng(0).normal(size=(60, 8))
    >>> KDEffNetLite0().reduce({"features": x[:30] + 1}, {"features": x[30:]}).value > 1
    True
    """

    name = "kd_effnetlite0"
    title = "KD-EffNetLite0"
    maker = "efficientnet-lite0"


class PrecisionEffNetLite0(Precision):
    """Share of generated images that lie among the real ones on 1,280 pooled features of
    EfficientNet-lite0 (ImageNet weights): within the distance of some real image to its third
    neighbour. Higher is better. Comparable to no published score (papers take VGG-16 or
    Inception), and only for equal n: radii shrink as sets grow. The interval resamples the
    generated images; the real set is taken as given.

    Rows: ``features`` (n, 1280) float32; at least 4 images on both sides.

    >>> x = np.random.default_rng(0).normal(size=(40, 4))
    >>> PrecisionEffNetLite0().reduce({"features": x[:20] + 50}, {"features": x[20:]}).value
    0.0
    """

    name = "precision_effnetlite0"
    title = "precision-EffNetLite0"
    maker = "efficientnet-lite0"


class RecallEffNetLite0(Recall):
    """Share of real images that lie among the generated ones on 1,280 pooled features of
    EfficientNet-lite0 (ImageNet weights): within the distance of some generated image to its third
    neighbour. Higher is better; falls where a method repeats itself. Comparable to no published
    score, and only for equal n. No interval: it rests on all generated images at once.

    Rows: ``features`` (n, 1280) float32; at least 4 images on both sides.

    >>> x = np.random.default_rng(0).normal(size=(40, 4))
    >>> RecallEffNetLite0().reduce({"features": x}, {"features": x}).value
    1.0
    """

    name = "recall_effnetlite0"
    title = "recall-EffNetLite0"
    maker = "efficientnet-lite0"
