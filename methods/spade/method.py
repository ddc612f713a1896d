"""SPADE behind the common interface: one global style, layouts through mask convolutions."""

from __future__ import annotations

from sisbench.methods.layers.global_vae import GlobalVae
from sisbench.methods.layers.scam_frame import Frame
from sisbench.methods.layers.spade import NormKind, Step
from sisbench.methods.spade.network import Generator, ScamGenerator
from sisbench.methods.spade.options import SpadeOptions
from sisbench.methods.spade.training import SpadeTraining


class SPADE(GlobalVae):
    """Park et al. 2019; with the VAE's encoder the style of a photograph is one vector."""

    name = "spade"
    title = "SPADE"
    paper = (
        "Park et al., Semantic Image Synthesis with Spatially-Adaptive Normalization, CVPR 2019, "
        "arXiv:1903.07291"
    )
    Options = SpadeOptions
    options: SpadeOptions

    @classmethod
    def training(cls) -> type[SpadeTraining]:
        """Hinge, feature matching, perceptual loss and KL."""
        return SpadeTraining

    def make_generator(self, steps: list[Step], start: tuple[int, int]) -> Generator:
        """Of the official configuration."""
        o = self.options
        z_dim = o.z_dim if o.use_vae else None
        kind = NormKind.parse(o.norm_G)
        return Generator(self.semantics, steps, start, z_dim, o.nhidden, kind)

    def make_frame(self, frame: Frame) -> ScamGenerator:
        """Of SCAM's repository."""
        o = self.options
        return ScamGenerator(frame, o.z_dim if o.use_vae else None, o.nhidden)
