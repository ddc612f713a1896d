"""Pixel scores of image pairs: PSNR (per image and pooled) and SSIM, on 8-bit images."""

from __future__ import annotations

from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from sisbench.core.errors import Unavailable, UserError
from sisbench.core.estimates import bootstrap_mean
from sisbench.metrics.base import Context, ImageBatch, Metric, RowMaker, Rows, Score, of_mean
from sisbench.metrics.extractors import code_hash

if TYPE_CHECKING:
    from torch import Tensor

_RANGE = 255.0
_SHIFT = 128.0
_PAIRED = ("reconstruct",)


def _pair(batch: ImageBatch, name: str) -> tuple[Tensor, Tensor]:
    image, target = batch.the("image"), batch.the("target")
    if image.shape != target.shape:
        raise UserError(
            f"{name}: images are {tuple(image.shape)}, targets {tuple(target.shape)}",
            "pairs are compared at one size; the protocol's size applies to both",
        )
    return image, target


class PSNRRows(RowMaker):
    """Squared errors of 8-bit pairs, as integers.

    Rows: ``sse`` (B,) float64, exact sum of squared differences; ``count`` (B,) int64 elements;
    ``low`` and ``high`` (B,) uint8, extremes of the target.
    """

    name = "psnr"
    needs = frozenset({"image", "target"})

    def __init__(self, device: str = "cpu") -> None:
        self.device = device

    @classmethod
    def from_context(cls, context: Context) -> Self:
        return cls(context.device)

    def fingerprint(self) -> str:
        return code_hash(self.name, 1)

    def rows(self, batch: ImageBatch) -> dict[str, np.ndarray]:
        import torch

        self.check(batch)
        image, target = (x.to(self.device).flatten(1) for x in _pair(batch, self.name))
        delta = image.to(torch.int32) - target.to(torch.int32)
        sse = (delta * delta).sum(dim=1, dtype=torch.int64)
        count = np.full(len(image), image.shape[1], np.int64)
        low, high = target.amin(dim=1), target.amax(dim=1)
        return {
            "sse": sse.double().cpu().numpy(),
            "count": count,
            "low": low.cpu().numpy(),
            "high": high.cpu().numpy(),
        }


def psnr_of(sse: np.ndarray, count: np.ndarray, data_range: float = _RANGE) -> np.ndarray:
    """10 log10(range^2 count / sse) in dB; infinite where sse is 0.

    >>> float(psnr_of(np.array([255.0**2 * 12]), np.array([12]))[0])
    0.0
    """
    with np.errstate(divide="ignore"):
        return 10 * np.log10(data_range**2 * np.asarray(count) / np.asarray(sse, np.float64))


class PSNR(Metric):
    """Peak signal-to-noise ratio, mean over images, data range 255.

    PSNR_i = 10 log10(255^2 / MSE_i) over all elements of image i; the score is the mean over
    images. Higher is better. An image equal to its target has an infinite PSNR: such images are
    left out of the mean, counted in ``extra["identical"]`` and marked.

    Rows: ``sse``, ``count`` (n,).

    >>> rows = {"sse": np.array([12.0 * 255**2 / 100, 0.0]), "count": np.array([12, 12])}
    >>> score = PSNR().reduce(rows)
    >>> round(score.value, 6), score.extra["identical"]
    (20.0, 1)
    """

    name = "psnr"
    title = "PSNR"
    shown_where = MappingProxyType({"psnr": "image_mean"})
    protocol_fields = ("psnr",)
    direction = "up"
    bounds = (0.0, None)
    unit = "dB"
    digits = 2
    maker = "psnr"
    tasks = _PAIRED
    source = "scikit-image peak_signal_noise_ratio, mean over images"

    def reduce(self, rows: Rows, real: Rows | None = None, *, seed: int = 0) -> Score:
        values = psnr_of(rows["sse"], rows["count"])
        finite = values[np.isfinite(values)]
        identical = len(values) - len(finite)
        if not len(finite):
            raise Unavailable(
                f"all {len(values)} images equal their targets: PSNR is infinite",
                "the generated images are the photographs themselves",
            )
        estimate = bootstrap_mean(finite, seed=seed)
        marks = (f"{identical} images equal their target: left out",) if identical else ()
        extra = {"identical": identical, "median": float(np.median(finite))}
        return Score(
            estimate.value,
            len(values),
            se=estimate.se,
            ci=estimate.ci,
            extra=extra,
            marks=marks,
            values=None if identical else values,
        )


class PSNRPooled(Metric):
    """Peak signal-to-noise ratio of the whole set: one logarithm of the pooled squared error.

    PSNR = 10 log10(255^2 N / SSE) with SSE and N summed over all images; never above the mean of
    per-image PSNR. ``extra["observed_range"]`` is the same with the range that torchmetrics 0.7
    takes from the targets (SCAM's code), max(0, max) - min(0, min) of values in [-1, 1]. Interval:
    the delta method over images.

    Rows: ``sse``, ``count``, ``low``, ``high`` (n,).

    >>> rows = {"sse": np.array([3.0, 9.0]), "count": np.array([12, 12]),
    ...         "low": np.array([0, 0]), "high": np.array([255, 255])}
    >>> round(PSNRPooled().reduce(rows).value, 4)
    51.1411
    """

    name = "psnr_pooled"
    title = "PSNR (pooled)"
    shown_where = MappingProxyType({"psnr": "pooled"})
    protocol_fields = ("psnr",)
    direction = "up"
    bounds = (0.0, None)
    unit = "dB"
    digits = 2
    maker = "psnr"
    tasks = _PAIRED
    source = "Dufour et al. (SCAM), ECCV 2022: PSNR as its code accumulates it"

    def reduce(self, rows: Rows, real: Rows | None = None, *, seed: int = 0) -> Score:
        sse, count = rows["sse"].astype(np.float64), rows["count"].astype(np.float64)
        if sse.sum() == 0:
            raise Unavailable(
                f"all {len(sse)} images equal their targets: PSNR is infinite",
                "the generated images are the photographs themselves",
            )
        value = float(psnr_of(sse.sum(), count.sum()))
        low, high = rows["low"].min() / 127.5 - 1, rows["high"].max() / 127.5 - 1
        observed = max(0.0, high) - min(0.0, low)
        n = len(sse)
        influence = _pooled_influence(sse, count)
        se = float(influence.std(ddof=1) / np.sqrt(n)) if n > 1 else None
        ci = None if se is None else (value - 1.96 * se, value + 1.96 * se)
        extra = {
            "observed_range": float(psnr_of(sse.sum(), count.sum(), observed * 127.5)),
            "identical": int(np.sum(sse == 0)),
        }
        return Score(value, n, se=se, ci=ci, extra=extra, values=value + influence)


def _pooled_influence(sse: np.ndarray, count: np.ndarray) -> np.ndarray:
    """n times the derivative of the pooled PSNR by each image's weight; the mean is 0."""
    shares = sse / sse.mean() - count / count.mean()
    return np.asarray(-10 / np.log(10) * shares)


class SSIMRows(RowMaker):
    """Structural similarity of 8-bit pairs.

    Args:
        window: ``gauss11`` (Gaussian 11 x 11, sigma 1.5, population covariance) or ``uniform7``
            (7 x 7 mean, sample covariance: scikit-image's defaults).
        device: ``cpu`` filters by OpenCV; a GPU filters by separable convolutions.

    Rows: ``ssim`` (B,) float64.
    """

    name = "ssim"
    needs = frozenset({"image", "target"})

    def __init__(self, window: str = "gauss11", device: str = "cpu") -> None:
        if window not in ("gauss11", "uniform7"):
            raise UserError(f"window must be gauss11 or uniform7, got {window!r}")
        self.window, self.device = window, device

    @classmethod
    def from_context(cls, context: Context) -> Self:
        return cls(context.ssim, context.device)

    def basis(self, size: tuple[int, int]) -> dict[str, str]:
        return {"convention": self.window}

    def fingerprint(self) -> str:
        return code_hash(self.name, 1, self.window)

    def rows(self, batch: ImageBatch) -> dict[str, np.ndarray]:
        self.check(batch)
        image, target = _pair(batch, self.name)
        side = len(_taps(self.window))
        if min(image.shape[2:]) < side:
            raise UserError(
                f"ssim needs images of at least {side} x {side}, got {tuple(image.shape[2:])}"
            )
        if self.device != "cpu":
            return {"ssim": _ssim_torch(image.to(self.device), target.to(self.device), self.window)}
        x, y = (t.permute(0, 2, 3, 1).cpu().numpy() for t in (image, target))
        return {"ssim": np.array([_ssim_cv(a, b, self.window) for a, b in zip(x, y, strict=True)])}


@lru_cache
def _taps(window: str) -> tuple[float, ...]:
    if window == "uniform7":
        return (1 / 7,) * 7
    taps = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    return tuple(taps / taps.sum())


def _similarity(mx: Any, my: Any, squares: Any, cross: Any, window: str) -> Any:
    """SSIM map from the window means of x, y, x^2 + y^2 and x y, where x and y are less 128."""
    c1, c2 = (0.01 * _RANGE) ** 2, (0.03 * _RANGE) ** 2
    unbias = 49 / 48 if window == "uniform7" else 1.0
    product = mx * my
    sum_of_squares = mx * mx + my * my
    covariance = (cross - product) * (2 * unbias)
    variances = (squares - sum_of_squares) * unbias
    offset = _SHIFT * (mx + my + _SHIFT)  # (mx + 128)(my + 128) = mx my + 128 (mx + my + 128)
    luminance = 2 * (product + offset) + c1
    both = sum_of_squares + 2 * offset + c1
    return luminance * (covariance + c2) / (both * (variances + c2))


def _ssim_cv(x: np.ndarray, y: np.ndarray, window: str) -> float:
    """Mean SSIM over the valid interior and channels of two (H, W, 3) uint8 images, in float32.

    The values are shifted by 128 first: the variances are differences of squares, and the shift
    keeps them small.
    """
    import cv2

    taps = np.array(_taps(window), np.float32)
    pad = len(taps) // 2
    a = x.astype(np.float32) - np.float32(_SHIFT)
    b = y.astype(np.float32) - np.float32(_SHIFT)
    mx, my, squares, cross = (
        cv2.sepFilter2D(z, -1, taps, taps)[pad:-pad, pad:-pad] for z in (a, b, a * a + b * b, a * b)
    )
    return float(_similarity(mx, my, squares, cross, window).mean(dtype=np.float64))


def _ssim_torch(x: Tensor, y: Tensor, window: str) -> np.ndarray:
    """The same by convolutions without padding: (B, 3, H, W) uint8 -> (B,)."""
    import torch
    from torch.nn import functional

    taps = torch.tensor(_taps(window), dtype=torch.float32, device=x.device)
    a, b = x.float() - _SHIFT, y.float() - _SHIFT
    planes = torch.cat([a, b, a * a + b * b, a * b], dim=1).flatten(0, 1)[:, None]
    planes = functional.conv2d(planes, taps.view(1, 1, -1, 1))
    planes = functional.conv2d(planes, taps.view(1, 1, 1, -1))
    mx, my, squares, cross = planes.view(len(x), 4, 3, *planes.shape[2:]).unbind(1)
    ssim = _similarity(mx, my, squares, cross, window)
    return ssim.double().mean(dim=(1, 2, 3)).cpu().numpy()


class SSIM(Metric):
    """Structural similarity, mean over images, on 8-bit RGB with data range 255.

    SSIM = (2 mx my + c1)(2 sxy + c2) / ((mx^2 + my^2 + c1)(sx^2 + sy^2 + c2)), c1 = 2.55^2,
    c2 = 7.65^2; Gaussian window 11, sigma 1.5, population covariance; mean over the valid interior
    (5 pixels less on each side), over R, G, B, then over images. Higher is better, at most 1.

    Rows: ``ssim`` (n,).

    Source: Wang et al., IEEE TIP 2004, section III; equals scikit-image with gaussian_weights=True,
    use_sample_covariance=False.

    >>> SSIM().reduce({"ssim": np.array([0.5, 0.7])}).value
    0.6
    """

    name = "ssim"
    title = "SSIM"
    protocol_fields = ("ssim",)
    direction = "up"
    bounds = (-1.0, 1.0)
    digits = 4
    maker = "ssim"
    tasks = _PAIRED
    source = "Wang et al., IEEE TIP 2004, section III"

    def reduce(self, rows: Rows, real: Rows | None = None, *, seed: int = 0) -> Score:
        estimate = bootstrap_mean(rows["ssim"], seed=seed)
        return of_mean(estimate, rows["ssim"], {"median": float(np.median(rows["ssim"]))})
