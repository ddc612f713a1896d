"""The parts of CoDiff's official checkpoints, of one modality or composed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from sisbench.methods.codiff.conditions import TextEncoder
from sisbench.methods.key_map import KeyMap

_MASK_UNET = "model.seg_mask_unet.diffusion_model."
_MASK_STAGE = "cond_stage_model.seg_mask_cond_stage_model."

MASK_ONLY: Mapping[str, tuple[str, ...]] = {
    "unet": ("model.diffusion_model.", _MASK_UNET),
    "cond_stage": ("cond_stage_model.", _MASK_STAGE),
    "first_stage": ("first_stage_model.",),
}
"""Official module -> what its keys begin with, in ``*_mask.ckpt`` and in the composed file."""
COMPOSED: Mapping[str, tuple[str, ...]] = {
    "seg_mask_unet": (_MASK_UNET,),
    "text_unet": ("model.text_unet.diffusion_model.",),
    "seg_mask_confidence_predictor": ("model.seg_mask_confidence_predictor.diffusion_model.",),
    "text_confidence_predictor": ("model.text_confidence_predictor.diffusion_model.",),
    "seg_mask_cond_stage": (_MASK_STAGE,),
    "text_cond_stage": ("cond_stage_model.text_cond_stage_model.",),
    "first_stage": ("first_stage_model.",),
}
"""The same for mask and text."""
FILES = ("{}_codiff_mask_text.ckpt", "{}_mask.ckpt")
"""Names of the composed file and of the mask's, by variant."""


class PartKeyMap(KeyMap):
    """A module whose keys are ours, also where the state is a whole file that holds it elsewhere.

    Args:
        module: the module.
        prefixes: what its keys may begin with in a file.
    """

    def __init__(self, module: nn.Module, prefixes: Sequence[str]) -> None:
        super().__init__(module)
        self.prefixes = tuple(prefixes)
        self.same()
        if isinstance(module, TextEncoder):  # a head that the official network holds and never uses
            self.unused("transformer.to_logits.weight", (module.words, module.width))
            self.unused("transformer.to_logits.bias", (module.words,))

    def renamed(self, official: Mapping[str, Tensor], where: str) -> Mapping[str, Tensor]:
        """The module's keys without the longest prefix that fits."""
        cut = [p.removeprefix(self.prefixes[0]) for p in self.prefixes]
        for prefix in sorted({*self.prefixes, *cut} - {""}, key=len, reverse=True):
            part = {k.removeprefix(prefix): v for k, v in official.items() if k.startswith(prefix)}
            if part:
                return part
        return official
