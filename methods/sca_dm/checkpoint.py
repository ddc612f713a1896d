"""The UNet's weights in an official checkpoint, plain or averaged."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from sisbench.core.errors import UserError
from sisbench.methods.key_map import KeyMap
from sisbench.methods.layers.diffusion.unet import UNet

PREFIXES = {
    "unet": "model.diffusion_model.",
    "style_encoder": "cond_stage_model.",
    "first_stage": "first_stage_model.",
}
EMA_PREFIX = "model_ema.diffusion_model"
"""Of the averaged UNet; what follows is the UNet's key with all dots deleted."""


class UNetKeyMap(KeyMap):
    """The UNet's keys, with or without their dots.

    Args:
        unet: the module.
        ema: whether the averaged weights were asked for.
    """

    def __init__(self, unet: UNet, ema: bool) -> None:
        super().__init__(unet)
        self.ema = ema
        self.same()
        # a class embedding that the official network holds and never reads
        assert unet.num_classes is not None
        self.unused("label_emb.weight", (unet.num_classes, 4 * unet.width))

    def dotted(self) -> dict[str, str]:
        """Averaged weights' name -> official name; one-to-one."""
        return {key.replace(".", ""): key for key in self.official_shapes()}

    def renamed(self, official: Mapping[str, Tensor], where: str) -> Mapping[str, Tensor]:
        """The keys with their dots.

        Raises:
            UserError: averaged weights were asked for and the file has none.
        """
        if self.ema and any(k.startswith(PREFIXES["unet"]) for k in official):
            raise UserError(
                f"{where}: the checkpoint holds no averaged weights ({EMA_PREFIX}...)",
                "take the plain ones with the option ema: false",
            )
        names = self.dotted()
        if official.keys() & (names.keys() - set(names.values())):
            return {names.get(key, key): value for key, value in official.items()}
        return official
