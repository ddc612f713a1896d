"""Metrics: row makers (map) and figures (reduce). Importing a metric does not import torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sisbench.core.registry import Registry

if TYPE_CHECKING:
    from sisbench.metrics.base import Metric, RowMaker

registry = Registry(
    "sisbench.metrics",
    {
        "fid": "sisbench.metrics.frechet:FID",
        "r_fid": "sisbench.metrics.frechet:RFID",
        "s_fid": "sisbench.metrics.frechet:SFID",
        "fid_sh": "sisbench.metrics.frechet:FIDSh",
        "fid_infinity": "sisbench.metrics.frechet:FIDInfinity",
        "kid": "sisbench.metrics.kid:KID",
        "psnr": "sisbench.metrics.pixel:PSNR",
        "psnr_pooled": "sisbench.metrics.pixel:PSNRPooled",
        "ssim": "sisbench.metrics.pixel:SSIM",
        "lpips": "sisbench.metrics.perceptual:LPIPS",
        "lpips_vgg": "sisbench.metrics.perceptual:LPIPSOfVgg",
        "lpips_squeeze": "sisbench.metrics.perceptual:LPIPSOfSqueeze",
        "lpips_diversity": "sisbench.metrics.perceptual:LPIPSDiversity",
        "miou": "sisbench.metrics.segmentation:MIoU",
        "accuracy": "sisbench.metrics.segmentation:Accuracy",
        "class_iou": "sisbench.metrics.segmentation:ClassIoU",
        "frs": "sisbench.metrics.identity:FRS",
        "reidsim": "sisbench.metrics.identity:REIDSim",
        "reidacc": "sisbench.metrics.identity:REIDAcc",
        "locality": "sisbench.metrics.locality:Locality",
        "seconds": "sisbench.metrics.efficiency:Seconds",
        "peak_memory": "sisbench.metrics.efficiency:PeakMemory",
        "parameters": "sisbench.metrics.efficiency:Parameters",
        "flops": "sisbench.metrics.efficiency:Flops",
    },
)
makers = Registry(
    "sisbench.row_makers",
    {
        "inception": "sisbench.metrics.inception:Inception",
        "psnr": "sisbench.metrics.pixel:PSNRRows",
        "ssim": "sisbench.metrics.pixel:SSIMRows",
        "lpips-alex": "sisbench.metrics.perceptual:LPIPSAlex",
        "lpips-vgg": "sisbench.metrics.perceptual:LPIPSVgg",
        "lpips-squeeze": "sisbench.metrics.perceptual:LPIPSSqueeze",
        "lpips-embedding": "sisbench.metrics.perceptual:LPIPSDiversityRows",
        "confusion": "sisbench.metrics.segmentation:ConfusionRows",
        "layout": "sisbench.metrics.segmentation:LayoutRows",
        "identity": "sisbench.metrics.identity:IdentityRows",
        "reid": "sisbench.metrics.identity:REIDRows",
        "locality": "sisbench.metrics.locality:LocalityRows",
    },
)


def create(name: str, **options: Any) -> Metric:
    """The metric called ``name``, or ``"./file.py:Class"``.

    Raises:
        UserError: unknown name; the nearest one is named.
    """
    return _made(registry, name, options)


def create_maker(name: str, **options: Any) -> RowMaker:
    """The row maker called ``name``, as ``"inception"``.

    Raises:
        UserError: unknown name or option.
        Unavailable: weights that it needs are not here.
    """
    return _made(makers, name, options)


def _made(registry: Registry, name: str, options: dict[str, Any]) -> Any:
    import inspect

    from sisbench.core.errors import UserError, did_you_mean

    found = registry.get(name)
    known = inspect.signature(found).parameters
    open_ended = any(p.kind is p.VAR_KEYWORD for p in known.values())
    for option in options:
        if option not in known and not open_ended:
            raise UserError(
                f"{registry.kind} '{name}' has no option '{option}'", did_you_mean(option, known)
            )
    return found(**options)
