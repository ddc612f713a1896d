"""Parsers: networks that read a label map back from a photograph."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sisbench.core.registry import Registry

if TYPE_CHECKING:
    from sisbench.core.label_space import LabelSpace
    from sisbench.segmenters.base import Segmenter

registry = Registry(
    "sisbench.segmenters",
    {
        "toy": "sisbench.segmenters.toy:ToyParser",
        "celebamask_unet": "sisbench.segmenters.celebamask_unet:CelebAMaskUNet",
        "bisenet_face": "sisbench.segmenters.bisenet:BiSeNetFace",
        "mit_ade20k": "sisbench.segmenters.mit_ade20k:MITADE20K",
        "segformer": "sisbench.segmenters.segformer:SegFormer",
    },
    "sisbench.segmenters.base:Segmenter",
)


def create(name: str, /, space: LabelSpace | str, **options: Any) -> Segmenter:
    """A parser for a label space, without weights yet (``load`` brings them).

    Raises:
        UserError: unknown name or option, or a parser that does not know the label space.
    """
    from sisbench.core.label_space import LabelSpace
    from sisbench.segmenters.base import accept_options

    found = LabelSpace.named(space) if isinstance(space, str) else space
    owner = registry.get(name)
    parser: Segmenter = owner(found, **accept_options(owner, name, options))
    return parser
