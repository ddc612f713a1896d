"""The toy parser: a small U-Net for toyfaces whose weights come with sisbench."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sisbench.core.errors import UserError
from sisbench.core.resize import resize_bilinear_pil
from sisbench.segmenters.base import parse_size
from sisbench.segmenters.loading import Part
from sisbench.segmenters.network_parser import NetworkParser, normalise

if TYPE_CHECKING:
    from sisbench.core.label_space import LabelSpace

Self = TypeVar("Self", bound="ToyParser")

COMMITTED = Path(__file__).with_name("toy_weights.safetensors")
CLASSES = 19
SMALLEST, LARGEST, STEP = 64, 128, 16
_HALF = (0.5, 0.5, 0.5)


class Stage(nn.Sequential):
    """Conv 3x3, batch norm, ReLU: (B, i, h, w) -> (B, o, h, w)."""

    def __init__(self, i: int, o: int) -> None:
        super().__init__(
            nn.Conv2d(i, o, 3, padding=1, bias=False), nn.BatchNorm2d(o), nn.ReLU(inplace=True)
        )


class ToyNet(nn.Module):
    """(B, 3, H, W) float in [-1, 1], sides multiples of 16 -> logits (B, 19, H, W).

    Most of the work is done at a half and a quarter of the resolution; on the way up, maps are
    enlarged by repetition and joined with those of the way down. 0.245 M parameters.
    """

    def __init__(self) -> None:
        super().__init__()
        self.down_full = Stage(3, 16)
        self.down_half = nn.Sequential(Stage(16, 32), Stage(32, 32))
        self.down_quarter = nn.Sequential(Stage(32, 48), Stage(48, 48))
        self.down_eighth = nn.Sequential(Stage(48, 56), Stage(56, 56))
        self.bottom = Stage(56, 56)
        self.up_eighth = Stage(112, 48)
        self.up_quarter = Stage(96, 40)
        self.up_half = Stage(72, 32)
        self.up_full = Stage(48, 24)
        self.final = nn.Conv2d(24, CLASSES, 1)

    def features(self, x: Tensor) -> list[Tensor]:
        """Maps on the way down: (B, c, H / s, W / s) with c = 16, 32, 48, 56, 56 and s = 1, 2, 4,
        8, 16; the last one is the deepest."""
        full = self.down_full(x)
        half = self.down_half(F.max_pool2d(full, 2))
        quarter = self.down_quarter(F.max_pool2d(half, 2))
        eighth = self.down_eighth(F.max_pool2d(quarter, 2))
        return [full, half, quarter, eighth, self.bottom(F.max_pool2d(eighth, 2))]

    def forward(self, x: Tensor) -> Tensor:
        full, half, quarter, eighth, y = self.features(x)
        y = self.up_eighth(_join(eighth, y))
        y = self.up_quarter(_join(quarter, y))
        y = self.up_half(_join(half, y))
        return self.final(self.up_full(_join(full, y)))


def _join(kept: Tensor, below: Tensor) -> Tensor:
    return torch.cat([kept, F.interpolate(below, scale_factor=2.0, mode="nearest")], 1)


class ToyParser(NetworkParser):
    """The parser of the bundled data set. Weights: ``segmenters/toy_weights.safetensors``, made by
    ``sisbench train toy-parser``.

    Args:
        space: ``celebamask_hq``.
        input_size: side or (height, width), multiples of 16 from 64 to 128. Images of another
            size are brought there by Pillow's bilinear rule, and labels come out there.

    Raises:
        UserError: another size or label space.
    """

    name = "toy"
    title = "toy parser"
    paper = "sisbench"
    spaces = ("celebamask_hq",)
    fixed = {"n_classes": CLASSES}  # noqa: RUF012

    def __init__(self, space: LabelSpace, *, input_size: int | tuple[int, int] = 64) -> None:
        self.size = height, width = parse_size(input_size, self.name)
        if any(s % STEP or not SMALLEST <= s <= LARGEST for s in (height, width)):
            raise UserError(
                f"{self.name}: input_size must be a multiple of {STEP} from {SMALLEST} to "
                f"{LARGEST}, got {input_size}"
            )
        super().__init__(space, input_size=[height, width])

    def parts(self) -> dict[str, Part]:
        """``toy``: the committed file's keys."""
        return {"toy": Part(ToyNet(), "", COMMITTED.name)}

    def load(self: Self, weights: Path | str | None = None, device: str = "cpu") -> Self:
        """Load ``weights``, or the file that comes with sisbench.

        Raises:
            Unavailable: the file is not there.
            UserError: it does not fit.
        """
        loaded = super().load(COMMITTED if weights is None else weights, device)
        self.weights_info["source"] = "sisbench"
        return loaded

    @torch.inference_mode()
    def predict(self, images: Tensor) -> Tensor:
        """Class of the highest logit: (B, 3, H, W) uint8 -> (B, h, w) int64."""
        height, width = self.compare_size((images.shape[-2], images.shape[-1]))
        x = normalise(resize_bilinear_pil(images, (height, width)), _HALF, _HALF)
        return self.loaded()["toy"](x).argmax(1)
