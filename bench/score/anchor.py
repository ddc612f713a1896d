"""Self-check of the parser pipeline: its score on real photographs against the published anchor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sisbench import metrics
from sisbench.core.errors import UserError
from sisbench.core.progress import Progress
from sisbench.data import Dataset
from sisbench.metrics.base import Context
from sisbench.score.rows import has_rows, map_rows
from sisbench.score.sources import Photographs, real_source

TOLERANCE = 0.5
"""Points (per cent) within which the set-up counts as right (segmentation_metrics, section 5)."""


@dataclass(frozen=True)
class Anchor:
    """What a parser scores on the real photographs of a split, as its authors state it.

    Attributes:
        dataset, parser: registry names; ``arguments`` opens the split; n: its number of images.
        miou, accuracy: per cent.
        source: who states it.
    """

    dataset: str
    parser: str
    arguments: Mapping[str, object]
    n: int
    miou: float
    accuracy: float
    source: str


ANCHORS = (
    Anchor(
        dataset="celebamask_hq",
        parser="celebamask_unet",
        arguments={"split": "test", "split_rule": "official", "size": 512},
        n=2824,
        miou=79.06,
        accuracy=93.42,
        source="the CelebAMask-HQ face parser's own scores on its test split",
    ),
)


def check_anchor(
    anchor: Anchor,
    dataset: Dataset,
    weights: Path | None,
    device: str,
    progress: Progress,
    only_cached: bool = False,
) -> tuple[bool, str] | None:
    """(whether both scores are within half a point of the anchor, what was found); None with
    ``only_cached`` where the photographs would have to be parsed first.

    Where they are not, the named conventions that would meet the anchor are listed: that tells a
    wrong average from wrong pixels.

    Raises:
        Unavailable: the parser's weights are not here.
    """
    given = {} if weights is None else {anchor.parser: weights}
    context = Context(parser=anchor.parser, space=dataset.space, device=device, weights=given)
    maker = metrics.create_maker("confusion", context)
    source = real_source(Photographs(dataset, dataset.fingerprint()))
    name = f"confusion-{anchor.parser}"
    if only_cached and not has_rows(source, name, maker):
        return None
    rows = map_rows(source, {name: maker}, progress)
    found = next(iter(rows.values()))
    if isinstance(found, UserError):
        raise found
    named = metrics.create("miou", context).reduce(found.columns).extra
    pairs = (("mIoU", "miou", anchor.miou), ("accuracy", "acc", anchor.accuracy))
    defaults = {"miou": "miou_dataset_union", "acc": "acc_pixel_dataset"}
    parts, right = [], len(found.ids) == anchor.n
    if not right:
        parts.append(f"{len(found.ids)} images where the anchor has {anchor.n}")
    for title, prefix, wanted in pairs:
        value = 100 * named[defaults[prefix]]
        near = abs(value - wanted) <= TOLERANCE
        right = right and near
        parts.append(f"{title} {value:.2f} (anchor {wanted})")
        if not near:
            meets = [
                name
                for name, other in named.items()
                if name.startswith(prefix)
                and isinstance(other, float)
                and abs(100 * other - wanted) <= TOLERANCE
            ]
            parts.append(
                f"the anchor is met by {', '.join(meets)}: another average"
                if meets
                else "no convention meets the anchor: pixels differ (resize, split, or weights)"
            )
    return right, "; ".join(parts)
