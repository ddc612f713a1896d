"""Metrics: row makers (map) and figures (reduce). Importing a metric does not import torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench.registry import Registry

if TYPE_CHECKING:
    from metrics.base import Metric, RowMaker

registry = Registry(
    "sisbench.metrics",
    {
        "fid": "metrics.frechet:FID",
        "r_fid": "metrics.frechet:RFID",
        "s_fid": "metrics.frechet:SFID",
        "fid_sh": "metrics.frechet:FIDSh",
        "fid_infinity": "metrics.frechet:FIDInfinity",
        "kid": "metrics.kid:KID",
        "psnr": "metrics.pixel:PSNR",
        "psnr_pooled": "metrics.pixel:PSNRPooled",
        "ssim": "metrics.pixel:SSIM",
        "lpips": "metrics.perceptual:LPIPS",
        "lpips_vgg": "metrics.perceptual:LPIPSOfVgg",
        "lpips_squeeze": "metrics.perceptual:LPIPSOfSqueeze",
        "lpips_diversity": "metrics.perceptual:LPIPSDiversity",
        "miou": "metrics.segmentation:MIoU",
        "accuracy": "metrics.segmentation:Accuracy",
        "class_iou": "metrics.segmentation:ClassIoU",
        "frs": "metrics.identity:FRS",
        "reidsim": "metrics.identity:REIDSim",
        "reidacc": "metrics.identity:REIDAcc",
        "locality": "metrics.locality:Locality",
        "seconds": "metrics.efficiency:Seconds",
        "peak_memory": "metrics.efficiency:PeakMemory",
        "parameters": "metrics.efficiency:Parameters",
        "flops": "metrics.efficiency:Flops",
    },
)
makers = Registry(
    "sisbench.row_makers",
    {
        "inception": "metrics.inception:Inception",
        "psnr": "metrics.pixel:PSNRRows",
        "ssim": "metrics.pixel:SSIMRows",
        "lpips-alex": "metrics.perceptual:LPIPSAlex",
        "lpips-vgg": "metrics.perceptual:LPIPSVgg",
        "lpips-squeeze": "metrics.perceptual:LPIPSSqueeze",
        "lpips-embedding": "metrics.perceptual:LPIPSDiversityRows",
        "confusion": "metrics.segmentation:ConfusionRows",
        "layout": "metrics.segmentation:LayoutRows",
        "identity": "metrics.identity:IdentityRows",
        "reid": "metrics.identity:REIDRows",
        "locality": "metrics.locality:LocalityRows",
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

    from bench.errors import UserError, did_you_mean

    found = registry.get(name)
    known = inspect.signature(found).parameters
    open_ended = any(p.kind is p.VAR_KEYWORD for p in known.values())
    for option in options:
        if option not in known and not open_ended:
            raise UserError(
                f"{registry.kind} '{name}' has no option '{option}'", did_you_mean(option, known)
            )
    return found(**options)
