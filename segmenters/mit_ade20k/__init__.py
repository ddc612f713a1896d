"""MIT's scene parsers for ADE20K, with which the papers score indoor and outdoor scenes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from sisbench.core.errors import UserError, did_you_mean
from sisbench.core.resize import resize_bilinear_pil
from sisbench.segmenters.loading import Part
from sisbench.segmenters.mit_ade20k.networks import PPM, Encoder, UPerNet
from sisbench.segmenters.network_parser import IMAGENET_MEAN, IMAGENET_STD, NetworkParser, normalise

if TYPE_CHECKING:
    from sisbench.core.label_space import LabelSpace


@dataclass(frozen=True)
class Network:
    """A published pair: encoder, decoder, the stride that input sides are rounded up to, the width
    of the last map."""

    encoder: str
    decoder: str
    padding_constant: int


NETWORKS = {
    "r101_upernet": Network("resnet101", "upernet", 32),
    "r50_upernet": Network("resnet50", "upernet", 32),
    "r50dilated_ppm": Network("resnet50dilated", "ppm_deepsup", 8),
}
_DECODERS: dict[str, type[UPerNet] | type[PPM]] = {"upernet": UPerNet, "ppm_deepsup": PPM}
_SYNCHRONISED = r"\.(_tmp_running_mean|_tmp_running_var|_running_iter)$"  # not used at test


class MITADE20K(NetworkParser):
    """Scene parsers of the MIT repository (files ``ade20k-*``, which take RGB and ImageNet's mean).

    Probabilities are computed at the size of the photographs given ("generated" size), averaged
    over ``imgSizes``; the class of the highest one, 0..149, is annotation value 1..150.

    Args:
        space: ``ade20k``.
        network: ``r101_upernet`` (the one that papers name), ``r50_upernet``, ``r50dilated_ppm``.
        imgSizes: short edges at which an image is parsed; the repository's five by default, (256,)
            for one scale.
        imgMaxSize: upper bound of the long edge.
        name, encoder, decoder, padding_constant: the same as ``network``, as the repository's
            configuration says it.

    Raises:
        UserError: no such network, sizes that are no positive numbers, another label space.
    """

    name = "mit_ade20k"
    title = "MIT scene parser"
    paper = "Zhou et al., IJCV 2019, arXiv:1608.05442; Xiao et al., UPerNet, arXiv:1807.10221"
    spaces = ("ade20k",)
    channels_last = False
    weights = "mit_ade20k-r101_upernet-encoder"
    fixed = {"num_class": 150, "fc_dim": 2048}  # noqa: RUF012

    def __init__(
        self,
        space: LabelSpace,
        *,
        network: str | None = None,
        imgSizes: Sequence[int] = (300, 375, 450, 525, 600),
        imgMaxSize: int = 1000,
        name: str | None = None,
        encoder: str | None = None,
        decoder: str | None = None,
        padding_constant: int | None = None,
    ) -> None:
        stated = {"encoder": encoder, "decoder": decoder, "padding_constant": padding_constant}
        self.network = _network(network or name, stated)
        sizes = tuple(imgSizes) if isinstance(imgSizes, (list, tuple)) else ()
        if not sizes or not all(isinstance(s, int) and s > 0 for s in (*sizes, imgMaxSize)):
            raise UserError(
                f"{self.name}: imgSizes, imgMaxSize are pixels, got {imgSizes!r}, {imgMaxSize!r}",
                "as imgSizes: [300, 375, 450, 525, 600]",
            )
        self.short_edges, self.longest = sizes, imgMaxSize
        options = {"network": self.network, "imgSizes": list(sizes), "imgMaxSize": imgMaxSize}
        super().__init__(space, **options)

    def compare_size(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """The size of the photographs themselves."""
        return image_size

    def input_sizes(self, image_size: tuple[int, int]) -> list[tuple[int, int]]:
        """(H, W) of the network's inputs for photographs of ``image_size``, one a short edge.

        The repository's rule: scale by short and long edge, truncate, round up to the network's
        stride; the image is resized to that, nothing is padded.
        """
        step = NETWORKS[self.network].padding_constant
        sizes = []
        for edge in self.short_edges:
            scale = min(edge / min(image_size), self.longest / max(image_size))
            height, width = (-(-int(side * scale) // step) * step for side in image_size)
            sizes.append((height, width))
        return sizes

    def parts(self) -> dict[str, Part]:
        """``encoder`` and ``decoder``: ``encoder_epoch_N.pth``, ``decoder_epoch_N.pth``."""
        net = NETWORKS[self.network]
        decoder = _DECODERS[net.decoder]()
        name = f"mit_ade20k-{self.network}"
        return {
            "encoder": Part(
                Encoder(net.encoder),
                f"{name}-encoder",
                "*encoder_epoch_*.pth",
                dropped=_SYNCHRONISED,
            ),
            "decoder": Part(
                decoder,
                f"{name}-decoder",
                "*decoder_epoch_*.pth",
                decoder.unused_shapes(),
                _SYNCHRONISED,
            ),
        }

    def logits(self, images: Tensor, size: tuple[int, int]) -> Tensor:
        """One scale: (B, 3, H, W) uint8, network input (h, w) -> (B, 150, h / stride, w / stride)
        float32."""
        net = self.loaded()
        x = normalise(resize_bilinear_pil(images, size), IMAGENET_MEAN, IMAGENET_STD)
        return net["decoder"](net["encoder"](x))

    @torch.inference_mode()
    def scores(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 -> mean class probabilities (B, 150, H, W) float32."""
        total: Tensor | None = None
        sizes = self.input_sizes((images.shape[-2], images.shape[-1]))
        for size in sizes:
            scores = _at(self.logits(images, size), images).softmax(1).div_(len(sizes))
            total = scores if total is None else total.add_(scores)
        assert total is not None  # there is at least one scale
        return total

    def predict(self, images: Tensor) -> Tensor:
        """Annotation value 1..150 of the most probable class; 0 (unlabelled) is never predicted."""
        if len(self.short_edges) == 1:  # softmax does not change the order
            (size,) = self.input_sizes((images.shape[-2], images.shape[-1]))
            return _at(self.logits(images, size), images).argmax(1) + 1
        return self.scores(images).argmax(1) + 1


def _at(logits: Tensor, images: Tensor) -> Tensor:
    return F.interpolate(logits, images.shape[-2:], mode="bilinear", align_corners=False)


def _network(name: str | None, stated: Mapping[str, object]) -> str:
    """The network called ``name``, or the first one with the parts ``stated`` (None: any)."""
    if name is not None and name not in NETWORKS:
        raise UserError(f"mit_ade20k has no network '{name}'", did_you_mean(name, NETWORKS))
    for found, network in NETWORKS.items():
        fits = all(v is None or getattr(network, k) == v for k, v in stated.items())
        if fits and name in (None, found):
            return found
    given = ", ".join(f"{k}={v}" for k, v in {"network": name, **stated}.items() if v is not None)
    raise UserError(f"mit_ade20k has no network with {given}", f"known: {', '.join(NETWORKS)}")
