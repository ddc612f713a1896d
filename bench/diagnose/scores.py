"""Whether the networks behind the scores read their files and an image of the data: one a data set,
tried before a run's images are made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from sisbench import metrics
from sisbench.config import RunConfig
from sisbench.core.adapter_file import described
from sisbench.core.devices import pick_devices
from sisbench.core.errors import Unavailable, UserError
from sisbench.data import Dataset
from sisbench.diagnose.finding import Finding
from sisbench.metrics.base import Context, ImageBatch, Metric, RowMaker
from sisbench.protocol import Protocol
from sisbench.run.plan import run_protocols
from sisbench.score.columns import metrics_shown

if TYPE_CHECKING:
    from sisbench.data import Sample


def scores_of(config: RunConfig, datasets: Mapping[str, Dataset]) -> Iterator[Finding]:
    """What fails of one image a data set and network. Weights that are not here are not named: they
    have a finding of their own."""
    tried, failed = 0, 0
    for label, data in datasets.items():
        try:
            batch = _batch(data.load(data.ids[0]), data)
        except Exception:  # its finding names the item
            continue
        known: set[tuple[type[RowMaker], str, str, str, str]] = set()
        for protocol in run_protocols(config):
            for name, maker, context in _makers(config, protocol, data):
                key = (maker, context.parser, context.fid, context.dtype, context.ssim)
                if key in known:
                    continue
                known.add(key)
                try:
                    maker.from_context(context).rows(batch)
                except Unavailable:
                    continue
                except Exception as error:  # a maker of anybody's
                    failed += 1
                    yield Finding("fail", f"{name} on {label}: {described(error)}")
                tried += 1
    if tried and not failed:
        yield Finding("ok", f"scores: an image of the data was measured in each way ({tried})")


def _makers(
    config: RunConfig, protocol: Protocol, data: Dataset
) -> Iterator[tuple[str, type[RowMaker], Context]]:
    """(metric's name, its row maker, what that may know) of the metrics that are asked for."""
    device = pick_devices(config.engine.device)[0]
    space = data.space.name
    parser = config.parsers.get(space) or protocol.parsers.get(space, "")
    for name, cls in _asked(config, protocol).items():
        try:
            maker = metrics.maker_of(cls)
        except UserError:  # said of the metric itself
            continue
        if maker is None:
            continue
        yield (
            name,
            maker,
            Context(
                fid=protocol.fid,
                dtype=protocol.dtype,
                ssim=protocol.ssim,
                parser=parser if maker.uses_parser else "",
                space=data.space,
                device=device,
                weights=config.weights,
            ),
        )


def _asked(config: RunConfig, protocol: Protocol) -> dict[str, type[Metric]]:
    if config.metrics is None:
        found = metrics_shown(protocol)
        return {name: cls for name, cls in found.items() if isinstance(cls, type)}
    known: dict[str, type[Metric]] = {}
    for name in config.metrics:
        try:
            known[name] = metrics.registry.get(name)
        except UserError:  # said of the metric itself
            continue
    return known


def _batch(sample: Sample, data: Dataset) -> ImageBatch:
    """One photograph in every place of a batch."""
    import torch

    image = torch.from_numpy(sample.image.copy()).permute(2, 0, 1)[None]  # (1, 3, H, W)
    label = torch.from_numpy(sample.label.copy())[None]
    return ImageBatch(
        ids=(sample.id,),
        image=image,
        target=image,
        label=label,
        reference=image,
        classes=torch.ones(1, len(data.space), dtype=torch.bool),
        space=data.space,
        reference_label=label,
        target_label=label,
        original=image,
        photograph=image,
        siblings=image[:, None],
    )
