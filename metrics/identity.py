"""Identity scores: FRS for faces, REIDSim and REIDAcc for persons, from embeddings of others."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self

import numpy as np

from sisbench.core.estimates import bootstrap_mean
from sisbench.metrics.base import Context, ImageBatch, Metric, RowMaker, Rows, Score, of_mean
from sisbench.metrics.extractors import ByContent, code_hash

if TYPE_CHECKING:
    from torch import Tensor

_EPS = 1e-8
REMEMBERED = 1 << 15
"""Embeddings of photographs that a maker keeps: every cell of a run compares with the same ones."""


class IdentityNetwork(Protocol):
    """What these makers need of an embedding network (``sisbench.segmenters.identity``)."""

    def embed(self, images: Tensor, boxes: Tensor | None = None) -> Tensor:
        """(B, 3, H, W) uint8 and (B, 4) top, bottom, left, right (exclusive) -> (B, D)."""

    def fingerprint(self) -> str:
        """Hash of weights, input size and code version."""


def _loaded(name: str, weights: Path | str | None, device: str) -> IdentityNetwork:
    from sisbench.segmenters.identity import create_identity

    network: IdentityNetwork = create_identity(name).load(weights, device)
    return network


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosine of rows (n, D) in float64, norms at least 1e-8 (a zero vector gives 0).

    >>> cosine(np.array([[1.0, 0], [0, 0]]), np.array([[2.0, 0], [1, 1]])).tolist()
    [1.0, 0.0]
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    norms = [np.maximum(np.linalg.norm(x, axis=1), _EPS) for x in (a, b)]
    return np.einsum("ij,ij->i", a, b) / (norms[0] * norms[1])


class _Embedded(RowMaker):
    """Rows from an embedding network; photographs are embedded once, whichever cells they are in.

    Args:
        network: an embedding network; None loads the one that ``weights`` names.
        weights: its file; None takes the registered one.
        device: where it runs.
    """

    def __init__(
        self,
        network: IdentityNetwork | None = None,
        weights: Path | str | None = None,
        device: str = "cpu",
    ) -> None:
        self.network = network or _loaded(type(self).weights, weights, device)
        self.sha256 = str(getattr(self.network, "weights_info", {}).get("sha256", ""))
        self._kept = ByContent(REMEMBERED)

    @classmethod
    def from_context(cls, context: Context) -> Self:
        return cls(weights=context.weights.get(cls.weights), device=context.device)

    def fingerprint(self) -> str:
        return code_hash(self.name, 1, self.network.fingerprint())

    def photographs(self, images: Tensor, boxes: Tensor | None = None) -> np.ndarray:
        """(B, 3, H, W) uint8 -> (B, D) float32."""
        import torch

        found = torch.stack(self._kept.of(images, self.network.embed, boxes))
        return _array(found)


def _array(embeddings: Tensor) -> np.ndarray:
    return embeddings.float().cpu().numpy()


class IdentityRows(_Embedded):
    """Face embeddings of generated images and of their targets.

    Args:
        network: an embedding network; None loads facenet's InceptionResnetV1 (VGGFace2).
        weights: its file; None takes the registered ``facenet``.
        device: where it runs.

    Rows: ``embedding`` and ``target_embedding`` (B, 512) float32, unit length.
    """

    name = "identity"
    needs = frozenset({"image", "target"})
    weights = "facenet"
    resize = "the whole picture, 160 x 160 by PIL's bilinear, (x - 127.5) / 128"

    def rows(self, batch: ImageBatch) -> dict[str, np.ndarray]:
        self.check(batch)
        return {
            "embedding": _array(self.network.embed(batch.the("image"))),
            "target_embedding": self.photographs(batch.the("target")),
        }


_WITH_LABEL_MAPS = (
    ("image", "label"),
    ("reference", "reference_label"),
    ("photograph", "target_label"),
)


class REIDRows(_Embedded):
    """Cosines of a subject transfer to its subject and to its background photograph.

    Boxes: the transfer by the label map that was drawn, each photograph by its own.

    Args:
        network: an embedding network; None loads the LUPerson ResNet-50.
        weights: its file; None takes the registered ``reid``.
        device: where it runs.

    Rows: ``subject`` and ``background`` (B,) float64 cosines; ``whole_frame`` (B,) bool, where a
    label map has no subject.
    """

    name = "reid"
    needs = frozenset(
        {"image", "label", "reference", "reference_label", "photograph", "target_label"}
    )
    weights = "reid"
    resize = "the subject's box, 256 x 128 bilinear without antialiasing, x / 127.5 - 1"

    def rows(self, batch: ImageBatch) -> dict[str, np.ndarray]:
        import torch

        from sisbench.segmenters.identity import subject_boxes

        self.check(batch)
        background = sorted(batch.space.background)
        found, whole = [], np.zeros(len(batch.ids), bool)
        for name, map_name in _WITH_LABEL_MAPS:
            image, label = batch.the(name), batch.the(map_name)
            boxes = subject_boxes(label, background)
            found.append(
                _array(self.network.embed(image, boxes))
                if name == "image"
                else self.photographs(image, boxes)
            )
            subject = (label >= 0) & ~torch.isin(label, torch.tensor(background).to(label))
            whole |= ~subject.flatten(1).any(dim=1).cpu().numpy()
        swap, person, place = found
        return {
            "subject": cosine(swap, person),
            "background": cosine(swap, place),
            "whole_frame": whole,
        }


class FRS(Metric):
    """Face recognition similarity: mean cosine of the face embeddings of an image and its target.

    FRS = mean_i cos(e(image_i), e(target_i)), e from facenet's InceptionResnetV1 (VGGFace2) on the
    whole picture at 160 x 160. Higher is better, at most 1. ``extra["floor"]``: mean cosine of each
    target with the next one, what different persons score. CA2-SIS names an "InceptionV3
    pre-trained on VGG-Face2", which no library has; this network is our reading of it.

    Rows: ``embedding``, ``target_embedding`` (n, D).

    >>> e = np.eye(2)
    >>> score = FRS().reduce({"embedding": e, "target_embedding": e})
    >>> score.value, score.extra["floor"]
    (1.0, 0.0)
    """

    name = "frs"
    title = "FRS"
    direction = "up"
    bounds = (-1.0, 1.0)
    digits = 3
    maker = "identity"
    tasks = ("reconstruct",)
    source = "Fontanini et al. (CA2-SIS), Table 2; network: facenet, by inference"

    def reduce(self, rows: Rows, real: Rows | None = None, *, seed: int = 0) -> Score:
        target = rows["target_embedding"]
        values = cosine(rows["embedding"], target)
        estimate = bootstrap_mean(values, seed=seed)
        extra = {"median": float(np.median(values))}
        if len(target) > 1:
            extra["floor"] = float(cosine(target, np.roll(target, -1, axis=0)).mean())
        return of_mean(estimate, values, extra)


class REIDSim(Metric):
    """Mean cosine of person embeddings between a subject transfer and its subject.

    Higher is better. The embeddings are not negative, so unrelated persons score high as well.
    ``extra["background_similarity"]`` is the same with the background photograph.

    Rows: ``subject``, ``background``, ``whole_frame`` (n,).

    >>> rows = {"subject": np.array([0.5, 0.7]), "background": np.array([0.6, 0.6]),
    ...         "whole_frame": np.array([False, False])}
    >>> round(REIDSim().reduce(rows).value, 6)
    0.6
    """

    name = "reidsim"
    title = "REIDSim"
    direction = "up"
    bounds = (-1.0, 1.0)
    digits = 3
    maker = "reid"
    tasks = ("subject_transfer",)
    source = "Dufour et al. (SCAM), ECCV 2022, section 4"

    def reduce(self, rows: Rows, real: Rows | None = None, *, seed: int = 0) -> Score:
        values = self._values(rows)
        estimate = bootstrap_mean(values, seed=seed)
        extra = {
            "background_similarity": float(np.mean(rows["background"])),
            "whole_frame": int(np.sum(rows["whole_frame"])),
        }
        return of_mean(estimate, values, extra)

    def _values(self, rows: Rows) -> np.ndarray:
        return rows["subject"]


class REIDAcc(REIDSim):
    """Share of subject transfers that are nearer to their subject than to the background
    photograph; a tie counts as a failure. Higher is better.

    Rows: as ``reidsim``.

    >>> rows = {"subject": np.array([0.5, 0.7]), "background": np.array([0.5, 0.6]),
    ...         "whole_frame": np.array([False, False])}
    >>> REIDAcc().reduce(rows).value
    0.5
    """

    name = "reidacc"
    title = "REIDAcc"
    bounds = (0.0, 1.0)

    def _values(self, rows: Rows) -> np.ndarray:
        return (rows["subject"] > rows["background"]).astype(np.float64)
