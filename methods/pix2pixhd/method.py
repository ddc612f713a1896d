"""Pix2PixHD behind the common interface: features of regions as style, label maps as layout."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from sisbench.core.batch import Batch
from sisbench.core.errors import UserError
from sisbench.core.label_space import LabelSpace
from sisbench.methods.base import Layout, Method, NoiseSource, draw, present_classes
from sisbench.methods.key_map import KeyMap
from sisbench.methods.layers.labels import instance_edges
from sisbench.methods.layers.semantics import Semantics
from sisbench.methods.pix2pixhd.clusters import Clusters
from sisbench.methods.pix2pixhd.network import Encoder, GlobalGenerator, LocalGenerator, Networks
from sisbench.methods.pix2pixhd.options import Pix2PixHDOptions
from sisbench.methods.pix2pixhd.style import FeatureStyle, OwnInstances, Regions, region_features
from sisbench.methods.pix2pixhd.training import Pix2PixHDTraining

NO_FEATURES = "no feature encoder: the picture follows from the label map alone"
NO_CLUSTERS = "no cluster centres to sample from (option clusters)"
_STYLED = ("transfer", "class_transfer", "subject_transfer", "interpolate_style")


class Pix2PixHD(Method):
    """Wang et al. 2018; a region's style is the mean of a few features over it."""

    name = "pix2pixhd"
    title = "Pix2PixHD"
    paper = (
        "Wang et al., High-Resolution Image Synthesis and Semantic Manipulation with Conditional "
        "GANs, CVPR 2018, arXiv:1711.11585"
    )
    Options = Pix2PixHDOptions
    files: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "netG": ("latest_net_G.pth", "*_net_G.pth"),
        "netE": ("latest_net_E.pth", "*_net_E.pth"),
    }
    sampling_options: ClassVar[frozenset[str]] = frozenset({"clusters"})
    file_options: ClassVar[frozenset[str]] = frozenset({"clusters"})
    options: Pix2PixHDOptions
    net: Networks

    @classmethod
    def training(cls) -> type[Pix2PixHDTraining]:
        """Least squares, feature matching and perceptual loss."""
        return Pix2PixHDTraining

    def build(self, space: LabelSpace) -> Networks:
        """netG, and netE if there are features."""
        o, wide = self.options, space.name == "cityscapes"
        self.semantics = Semantics.of(space, o.label_nc, False, o.no_instance, None)
        instances = self.semantics.instances
        self.label_feat = o.by_label(instances)
        self.step = 2 ** (o.n_downsample_global + int(o.netG == "local"))
        width = o.crop_size or (512 if wide else 256)
        self.size = (round(width / (o.aspect_ratio or (2.0 if wide else 1.0))), width)
        self._check_size(self.size)
        features = o.feat_num if o.encoded else 0
        classes, further = self.semantics.classes, int(instances) + features
        depth = (o.ngf, o.n_downsample_global, o.n_blocks_global)
        generator: GlobalGenerator | LocalGenerator
        if o.netG == "local":
            generator = LocalGenerator(classes, further, *depth, o.n_blocks_local)
        else:
            generator = GlobalGenerator(classes, further, *depth)
        self.clusters = None
        if o.clusters is not None:
            self.clusters = Clusters.load(o.clusters, classes, features)
        encoder = Encoder(o.feat_num, o.nef, o.n_downsample_E) if o.encoded else None
        return Networks(generator, encoder)

    def key_maps(self) -> Mapping[str, KeyMap]:
        """netG, and netE if there are features."""
        maps = {"netG": KeyMap(self.net.netG)}
        self.net.netG.map_keys(maps["netG"])
        if self.net.netE is not None:
            maps["netE"] = KeyMap(self.net.netE)
            self.net.netE.map_keys(maps["netE"])
        return maps

    def after_load(self) -> None:
        """Transform the weights of the residual blocks."""
        self.net.fold()

    @property
    def num_classes(self) -> int:
        """Classes of the label map."""
        return self.semantics.classes

    def cannot(self) -> Mapping[str, str]:
        """Without features all that needs a style; without clusters what draws one."""
        if not self.options.encoded:
            return dict.fromkeys((*_STYLED, "sample", "mixed"), NO_FEATURES)
        if self.options.clusters is None:
            return dict.fromkeys(("sample", "mixed"), NO_CLUSTERS)
        return {}

    def encode_layout(self, batch: Batch) -> Layout:
        """The label map.

        Raises:
            UserError: a value that is no class; instances are needed and not there; a side that
                cannot be halved often enough.
        """
        if self.semantics.instances:
            self._instances(batch)
        self._check_size((batch.label.shape[1], batch.label.shape[2]))
        label = self.semantics.read(batch.label)
        return Layout(label, present_classes(label, self.num_classes), batch.instance)

    def encode_style(self, batch: Batch) -> FeatureStyle:
        """Mean features, codes (B, K, feat_num) by class and, with instance maps, of each
        instance; codes (B, K, 0) without features."""
        layout = self.encode_layout(batch)
        if self.net.netE is None:
            return FeatureStyle(batch.image.new_zeros(*layout.present.shape, 0), layout.present)
        features = self.net.netE(batch.image)
        own = None
        if not self.label_feat:
            instance = self._instances(batch)
            regions = Regions.of(layout.label, instance)
            means = region_features(features, regions.index, len(regions.ids))
            own = OwnInstances(layout.label, instance, regions, means)
        return FeatureStyle(self._by_class(features, layout), layout.present, own=own)

    def sample_style(self, batch: Batch, noise: NoiseSource) -> FeatureStyle:
        """A cluster centre for each region, chosen by ``cluster<id>`` (1): id is the class, or
        the instance where the network has instance maps."""
        if self.clusters is None:
            raise UserError(f"{self.title}: {NO_CLUSTERS}")
        layout = self.encode_layout(batch)
        label = layout.label
        maps = label if self.label_feat else self._instances(batch)
        regions = Regions.of(label, maps)
        ids = torch.unique(regions.ids[regions.classes >= 0])
        drawn = [draw(noise, f"cluster{i}", len(label), 1, like=batch.image) for i in ids.tolist()]
        place = torch.searchsorted(ids, regions.ids).clamp_max(len(ids) - 1)
        normal = torch.cat(drawn, 1)[regions.samples, place]  # (S,)
        features = self.clusters.choose(regions.classes, normal)
        bare = self.clusters.lacking(regions.classes).long()
        missing = bare.new_zeros(len(label)).index_add_(0, regions.samples, bare)
        codes = self._by_class(features[regions.index].permute(0, 3, 1, 2), layout)
        own = None if self.label_feat else OwnInstances(label, maps, regions, features)
        return FeatureStyle(codes, layout.present, own=own, unclustered=missing)

    def _by_class(self, features: Tensor, layout: Layout) -> Tensor:
        """(B, F, H, W) -> (B, K, F): means over the pixels of each class."""
        count, classes = layout.present.shape
        start = torch.arange(count, device=features.device)[:, None, None] * classes
        index = torch.where(layout.label < 0, layout.label, layout.label + start)
        return region_features(features, index, count * classes).view(count, classes, -1)

    @torch.inference_mode()
    def feature_rows(self, batch: Batch) -> Tensor:
        """One row for each region of a training picture, for ``fit_clusters``.

        Returns:
            (R, 4 + F) float64: sample, class, id, the F features, area in 1/32 of the picture.
        """
        if self.net.netE is None:
            raise UserError(f"{self.title}: {NO_FEATURES}")
        label = self.encode_layout(batch).label
        regions = Regions.of(label, label if self.label_feat else self._instances(batch))
        means = region_features(self.net.netE(batch.image), regions.index, len(regions.ids))
        weight = regions.area / (label[0].numel() // 32)
        about = [t.double() for t in (regions.samples, regions.classes, regions.ids)]
        return torch.cat([torch.stack(about, 1), means.double(), weight.double()[:, None]], 1)

    def render(self, layout: Layout, style: FeatureStyle, noise: NoiseSource) -> Tensor:  # type: ignore[override]
        """No noise enters: a sampled style has drawn its own."""
        further = []
        if self.semantics.instances:
            further.append(instance_edges(self._instances(layout)))
        if self.options.encoded:
            further.append(style.painted(layout))
        label = layout.label
        empty = style.codes.new_zeros(len(label), 0, *label.shape[1:])
        return self.net.netG(label, torch.cat(further, 1) if further else empty)

    def _instances(self, maps: Batch | Layout) -> Tensor:
        if maps.instance is None:
            raise UserError(
                f"{self.name} was built with instance maps and there are none",
                "set no_instance: true (and label_feat), or use a data set with instances",
            )
        return maps.instance

    def _check_size(self, size: tuple[int, int]) -> None:
        step = max(self.step, 2**self.options.n_downsample_E)
        if any(side % step or side < 2 * step for side in size):
            raise UserError(
                f"pictures must have sides that are multiples of {step}, {2 * step} or more; "
                f"got {size[0]}x{size[1]}"
            )
