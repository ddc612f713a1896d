"""CLADE behind the common interface: one global style, layouts through a table by class."""

from __future__ import annotations

from sisbench.methods.clade.network import Generator, ScamGenerator
from sisbench.methods.clade.options import CladeOptions
from sisbench.methods.clade.training import CladeTraining
from sisbench.methods.layers.global_vae import GlobalVae
from sisbench.methods.layers.scam_frame import Frame
from sisbench.methods.layers.spade import Step


class CLADE(GlobalVae):
    """Tan et al. 2021; SPADE with a table in place of the mask convolutions."""

    name = "clade"
    title = "CLADE"
    paper = (
        "Tan et al., Efficient Semantic Image Synthesis via Class-Adaptive Normalization, TPAMI "
        "2021, arXiv:2012.04644"
    )
    Options = CladeOptions
    options: CladeOptions

    @classmethod
    def training(cls) -> type[CladeTraining]:
        """Hinge, feature matching, perceptual loss and KL."""
        return CladeTraining

    def make_generator(self, steps: list[Step], start: tuple[int, int]) -> Generator:
        """Of the official configuration, with positions if ``add_dist``."""
        o = self.options
        z_dim = o.z_dim if o.use_vae else None
        return Generator(self.semantics, steps, start, z_dim, o.add_dist, o.norm_dist)

    def make_frame(self, frame: Frame) -> ScamGenerator:
        """Of SCAM's repository."""
        return ScamGenerator(frame, self.options.z_dim if self.options.use_vae else None)
