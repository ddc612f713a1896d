"""Metrics: row makers (map) and scores (reduce). Importing a metric does not import torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sisbench.core.registry import Registry

if TYPE_CHECKING:
    from sisbench.metrics.base import Context, Metric, RowMaker

registry = Registry(
    "sisbench.metrics",
    {
        "fid": "sisbench.metrics.frechet:FID",
        "r_fid": "sisbench.metrics.frechet:RFID",
        "s_fid": "sisbench.metrics.frechet:SFID",
        "fid_sh": "sisbench.metrics.frechet:FIDSh",
        "fid_infinity": "sisbench.metrics.frechet:FIDInfinity",
        "kid": "sisbench.metrics.kid:KID",
        "fd_toy": "sisbench.metrics.offline:FDToy",
        "kd_toy": "sisbench.metrics.offline:KDToy",
        "precision_toy": "sisbench.metrics.offline:PrecisionToy",
        "recall_toy": "sisbench.metrics.offline:RecallToy",
        "fd_effnetlite0": "sisbench.metrics.offline:FDEffNetLite0",
        "kd_effnetlite0": "sisbench.metrics.offline:KDEffNetLite0",
        "precision_effnetlite0": "sisbench.metrics.offline:PrecisionEffNetLite0",
        "recall_effnetlite0": "sisbench.metrics.offline:RecallEffNetLite0",
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
    "sisbench.metrics.base:Metric",
)
makers = Registry(
    "sisbench.row_makers",
    {
        "inception": "sisbench.metrics.inception:Inception",
        "toy-features": "sisbench.metrics.offline:ToyFeatures",
        "efficientnet-lite0": "sisbench.metrics.offline:EfficientNetFeatures",
        "psnr": "sisbench.metrics.pixel:PSNRRows",
        "ssim": "sisbench.metrics.pixel:SSIMRows",
        "lpips-alex": "sisbench.metrics.perceptual:LPIPSAlex",
        "lpips-vgg": "sisbench.metrics.perceptual:LPIPSVgg",
        "lpips-squeeze": "sisbench.metrics.perceptual:LPIPSSqueeze",
        "lpips-embedding": "sisbench.metrics.perceptual:LPIPSDiversityRows",
        "confusion": "sisbench.metrics.confusion:ConfusionRows",
        "layout": "sisbench.metrics.confusion:LayoutRows",
        "identity": "sisbench.metrics.identity:IdentityRows",
        "reid": "sisbench.metrics.identity:REIDRows",
        "locality": "sisbench.metrics.locality:LocalityRows",
    },
    "sisbench.metrics.base:RowMaker",
)


def create(name: str, context: Context | None = None, /, **options: Any) -> Metric:
    """The metric called ``name``, or ``"./file.py:Class"``: with options of its own, or else as a
    run with this context uses it.

    Raises:
        UserError: unknown name; the nearest one is named.
    """
    found: Metric = _new(registry, name, context, options)
    return found


def create_maker(name: str, context: Context | None = None, /, **options: Any) -> RowMaker:
    """The row maker called ``name``, as ``"inception"``: with options of its own, or else as a
    run with this context uses it.

    Raises:
        UserError: unknown name or option.
        Unavailable: weights that it needs are not here.
    """
    found: RowMaker = _new(makers, name, context, options)
    return found


def maker_of(metric: type[Metric]) -> type[RowMaker] | None:
    """The class of a metric's row maker; None where it looks at no image."""
    return _maker(metric.maker)


def layout_maker_of(metric: type[Metric]) -> type[RowMaker] | None:
    """The class of a metric's row maker for what a layout editor makes; None where it has none."""
    return _maker(metric.layout_maker)


def _maker(named: str | type[RowMaker]) -> type[RowMaker] | None:
    if not isinstance(named, str):
        return named
    found: type[RowMaker] | None = makers.get(named) if named else None
    return found


def _new(registry: Registry, name: str, context: Context | None, options: dict[str, Any]) -> Any:
    import inspect

    from sisbench.core.errors import UserError, did_you_mean
    from sisbench.metrics.base import Context

    found = registry.get(name)
    if not options:
        return found.from_context(context or Context())
    if context is not None:
        raise UserError(f"{registry.kind} '{name}': give options or a context, not both")
    known = inspect.signature(found).parameters
    open_ended = any(p.kind is p.VAR_KEYWORD for p in known.values())
    for option in options:
        if option not in known and not open_ended:
            raise UserError(
                f"{registry.kind} '{name}' has no option '{option}'", did_you_mean(option, known)
            )
    return found(**options)
