"""LPIPS of image pairs, and LPIPS diversity among the images of one label map."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from sisbench.core.errors import UserError
from sisbench.core.estimates import bootstrap_mean
from sisbench.core.fit import fill
from sisbench.core.lpips_files import LINEAR_SHA256, linear_file
from sisbench.core.state_dict import read_state
from sisbench.metrics.base import Context, ImageBatch, Metric, RowMaker, Rows, Score, of_mean
from sisbench.metrics.extractors import (
    ByContent,
    code_hash,
    torch_dtype,
    weights_file,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

VERSION = 1
_EPS = 1e-10
_SHIFT = (-0.030, -0.088, -0.188)
_SCALE = (0.458, 0.448, 0.450)
_LAST_LAYERS = {  # index in torchvision's ``features`` after which a layer is compared
    "alex": (1, 4, 7, 9, 11),
    "vgg": (3, 8, 15, 22, 29),
    "squeeze": (1, 4, 7, 9, 10, 11, 12),
}


class LPIPSNetwork:
    """A trunk with its linear weights.

    LPIPS is a squared Euclidean distance: with n = f / |f| at a pixel, layer l adds
    sum_c w_c (n_c - n'_c)^2 averaged over its pixels, so sqrt(w_c / (H W)) n_c of all layers is an
    embedding.

    Args:
        net: ``alex``, ``vgg`` or ``squeeze``.
        trunk: state dict with torchvision's ``features.*`` keys.
        dtype: ``float32`` or ``bf16`` for the trunk; distances are always float32.
        device: where it runs.
    """

    def __init__(self, net: str, trunk: Path, dtype: str = "float32", device: str = "cpu") -> None:
        import torch

        self.net, self.device, self._dtype = net, device, torch_dtype(dtype)
        state = read_state(trunk)
        features = _features(net)
        own = {k.removeprefix("features."): v for k, v in state.items() if k[:9] == "features."}
        fill(features, own, str(trunk))
        features = features.eval().requires_grad_(False)
        features.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        features.to(device, self._dtype)
        cuts = (0, *(i + 1 for i in _LAST_LAYERS[net]))
        self._slices = [features[a:b] for a, b in itertools.pairwise(cuts)]
        linear = read_state(linear_file(net))
        self._linear = [
            linear[f"lin{i}.model.1.weight"].flatten().to(device) for i in range(len(cuts) - 1)
        ]
        shift, scale = torch.tensor(_SHIFT), torch.tensor(_SCALE)
        self._gain = (1 / (127.5 * scale)).view(3, 1, 1).to(device)
        self._offset = (-(1 + shift) / scale).view(3, 1, 1).to(device)

    def normalised(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) uint8 -> (B, h, w, C) float32 a layer, unit length over C."""
        import torch

        x = torch.addcmul(self._offset, images.to(self.device).float(), self._gain)
        x = x.to(self._dtype).contiguous(memory_format=torch.channels_last)
        layers = []
        for part in self._slices:
            x = part(x)
            f = x.permute(0, 2, 3, 1).float()
            layers.append(f / (torch.linalg.vector_norm(f, dim=-1, keepdim=True) + _EPS))
        return layers

    def distances(self, a: Tensor, b: Tensor) -> Tensor:
        """LPIPS of (B, 3, H, W) uint8 pairs -> (B,) float32, by one forward pass of both."""
        import torch

        total = torch.zeros(len(a), device=self.device)
        for layer, weight in zip(self.normalised(torch.cat([a, b])), self._linear, strict=True):
            first, second = layer.chunk(2)
            delta = first - second
            total += ((delta * delta) @ weight).mean(dim=(1, 2))
        return total

    def embed(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 -> (B, D) float32: squared distances between rows are LPIPS."""
        import torch

        parts = []
        for layer, weight in zip(self.normalised(images), self._linear, strict=True):
            pixels = layer.shape[1] * layer.shape[2]
            parts.append((layer * (weight / pixels).sqrt()).flatten(1))
        return torch.cat(parts, dim=1)


def _features(net: str) -> nn.Sequential:
    from torchvision import models

    build = {"alex": models.alexnet, "vgg": models.vgg16, "squeeze": models.squeezenet1_1}[net]
    features: nn.Sequential = build(weights=None).features[: _LAST_LAYERS[net][-1] + 1]
    return features


def pairwise(embeddings: Tensor) -> Tensor:
    """(K, D) embeddings -> (K, K) LPIPS, by direct differences (a Gram matrix cancels)."""
    k = len(embeddings)
    found = embeddings.new_zeros(k, k)
    for i in range(k - 1):
        found[i, i + 1 :] = _to_others(embeddings[i], embeddings[i + 1 :])
    return found + found.T


def _to_others(one: Tensor, others: Tensor) -> Tensor:
    """Squared distances of (D,) to (K, D); ``sum`` adds in pairs, which a norm does not, and D is
    of the order of a million."""
    delta = others - one
    return delta.mul_(delta).sum(dim=1)


class LPIPSRows(RowMaker):
    """LPIPS of 8-bit pairs at their own resolution, version 0.1.

    Args:
        weights: trunk (torchvision ``features.*``); None takes the registered file.
        dtype: ``float32``, or ``bf16`` for the trunk.
        device: where it runs.
        batch: pairs a forward pass.

    Rows: ``lpips`` (B,) float32.

    Raises:
        Unavailable: no trunk file, or no lpips package.
    """

    needs = frozenset({"image", "target"})
    net: ClassVar[str] = ""

    def __init__(
        self,
        weights: Path | str | None = None,
        dtype: str = "float32",
        device: str = "cpu",
        batch: int = 8,
    ) -> None:
        torch_dtype(dtype)
        self.dtype, self.device, self.batch = dtype, device, batch
        self.path, self.sha256 = weights_file(type(self).weights, weights)
        self.linear = LINEAR_SHA256[self.net]
        linear_file(self.net)
        self._network: LPIPSNetwork | None = None

    @classmethod
    def from_context(cls, context: Context) -> Self:
        given = context.weights.get(cls.weights)
        return cls(given, dtype=context.dtype, device=context.device)

    @property
    def network(self) -> LPIPSNetwork:
        """The network, read on first use."""
        if self._network is None:
            self._network = LPIPSNetwork(self.net, self.path, self.dtype, self.device)
        return self._network

    def fingerprint(self) -> str:
        return code_hash(self.name, VERSION, self.sha256, self.linear, self.dtype)

    def rows(self, batch: ImageBatch) -> dict[str, np.ndarray]:
        import torch

        self.check(batch)
        image, target = batch.the("image"), batch.the("target")
        if image.shape != target.shape:
            raise UserError(
                f"{self.name}: images are {tuple(image.shape)}, targets {tuple(target.shape)}"
            )
        with torch.inference_mode():
            pairs = zip(image.split(self.batch), target.split(self.batch), strict=True)
            found = [self.network.distances(a, b).cpu() for a, b in pairs]
        return {"lpips": torch.cat(found).numpy()}


class LPIPSAlex(LPIPSRows):
    """LPIPS rows with the AlexNet trunk."""

    name = "lpips-alex"
    weights = "lpips-alex"
    net = "alex"


class LPIPSVgg(LPIPSRows):
    """LPIPS rows with the VGG-16 trunk."""

    name = "lpips-vgg"
    weights = "lpips-vgg"
    net = "vgg"


class LPIPSSqueeze(LPIPSRows):
    """LPIPS rows with the SqueezeNet 1.1 trunk."""

    name = "lpips-squeeze"
    weights = "lpips-squeeze"
    net = "squeeze"


class LPIPSDiversityRows(LPIPSAlex):
    """Mean LPIPS (AlexNet) of an image to the other images of its label map.

    Every image is embedded once: embeddings of the last ``remember`` images are kept by content, so
    images of one label map should follow each other.

    Args:
        weights, dtype, device, batch: as for ``lpips-alex``.
        remember: embeddings to keep.

    Rows: ``distance`` (B,) float32, mean over the K - 1 siblings.
    """

    name = "lpips-embedding"
    needs = frozenset({"image", "siblings"})

    def __init__(
        self,
        weights: Path | str | None = None,
        dtype: str = "float32",
        device: str = "cpu",
        batch: int = 8,
        remember: int = 64,
    ) -> None:
        super().__init__(weights, dtype, device, batch)
        self._kept = ByContent(remember, batch)

    def rows(self, batch: ImageBatch) -> dict[str, np.ndarray]:
        import torch

        self.check(batch)
        image, siblings = batch.the("image"), batch.the("siblings")
        if siblings.ndim != 5 or siblings.shape[1] < 1:
            raise UserError(
                f"siblings must be (B, K - 1, 3, H, W) with K >= 2, got {tuple(siblings.shape)}",
                "diversity needs at least two images a label map",
            )
        found = []
        with torch.inference_mode():
            for one, others in zip(image, siblings, strict=True):
                own, *rest = self._kept.of(torch.cat([one[None], others]), self.network.embed)
                found.append(torch.stack([_to_others(own, e[None]) for e in rest]).mean())
        return {"distance": torch.stack(found).cpu().numpy()}


class LPIPS(Metric):
    """Learned perceptual distance of image pairs, AlexNet trunk, mean over images.

    d = sum_l mean_hw sum_c w_lc (n_lc - n'_lc)^2, n the channel-normalised features of layer l of
    the images in [-1, 1], at their own resolution. Lower is better, 0 for equal images.

    Rows: ``lpips`` (n,).

    Source: Zhang et al., CVPR 2018, section 3; lpips 0.1.4, version 0.1.

    >>> round(LPIPS().reduce({"lpips": np.array([0.1, 0.3])}).value, 6)
    0.2
    """

    name = "lpips"
    title = "LPIPS"
    direction = "down"
    bounds: ClassVar[tuple[float | None, float | None]] = (0.0, None)
    digits = 4
    maker = "lpips-alex"
    protocol_fields = ("dtype",)
    tasks = ("reconstruct",)
    source = "Zhang et al., CVPR 2018, section 3"

    def reduce(self, rows: Rows, real: Rows | None = None, *, seed: int = 0) -> Score:
        estimate = bootstrap_mean(rows["lpips"], seed=seed)
        return of_mean(estimate, rows["lpips"], {"median": float(np.median(rows["lpips"]))})


class LPIPSOfVgg(LPIPS):
    """LPIPS with the VGG-16 trunk; otherwise as ``lpips``.

    >>> LPIPSOfVgg.maker
    'lpips-vgg'
    """

    name = "lpips_vgg"
    title = "LPIPS (VGG)"
    on_request = True
    maker = "lpips-vgg"


class LPIPSOfSqueeze(LPIPS):
    """LPIPS with the SqueezeNet 1.1 trunk; otherwise as ``lpips``.

    >>> LPIPSOfSqueeze.maker
    'lpips-squeeze'
    """

    name = "lpips_squeeze"
    title = "LPIPS (SqueezeNet)"
    on_request = True
    maker = "lpips-squeeze"


class LPIPSDiversity(Metric):
    """LPIPS among the K images that were drawn for one label map: mean over all pairs i < j, then
    over label maps. Higher is more diverse, 0 when all images of a map are equal.

    Rows: ``distance`` (n,), mean distance of an image to the others of its label map; optionally
    ``target_id`` (n,), the label map that each belongs to. The interval is over label maps.

    Source: Zhu et al. (BicycleGAN), NeurIPS 2017, section 4; K = 10 and all pairs as in SDM.

    >>> rows = {"distance": np.array([0.2, 0.2, 0.4, 0.4]), "target_id": np.array(list("abab"))}
    >>> score = LPIPSDiversity().reduce(rows)
    >>> round(score.value, 6), score.extra["label_maps"]
    (0.3, 2)
    """

    name = "lpips_diversity"
    title = "LPIPS div."
    direction = "up"
    bounds = (0.0, None)
    digits = 4
    maker = "lpips-embedding"
    protocol_fields = ("dtype",)
    tasks = ("sample", "mixed")
    source = "Zhu et al. (BicycleGAN), NeurIPS 2017, section 4"

    def reduce(self, rows: Rows, real: Rows | None = None, *, seed: int = 0) -> Score:
        distance = np.asarray(rows["distance"], np.float64)
        groups = rows.get("target_id", np.arange(len(distance)))
        _, index = np.unique(groups, return_inverse=True)
        means = np.bincount(index, distance) / np.bincount(index)
        estimate = bootstrap_mean(means, seed=seed)
        extra = {"label_maps": len(means), "images_per_label_map": len(distance) / len(means)}
        n = len(distance)
        return Score(estimate.value, n, se=estimate.se, ci=estimate.ci, extra=extra)
