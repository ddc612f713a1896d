"""Cluster centres of features, from which styles are sampled (section 3.4 of the paper)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sisbench.core.errors import UserError

SMALLEST = 0.5
"""Weight of a region (in parts of 1/32 of the picture) from which on it is clustered."""


@dataclass(frozen=True)
class Clusters:
    """Centres by class.

    Attributes:
        centers: (C, n, F) float32.
        count: (C,) int64, how many of the n a class has.
    """

    centers: Tensor
    count: Tensor

    def save(self, path: Path | str) -> None:
        """Write ``path`` (.npz)."""
        np.savez(Path(path), centers=self.centers.numpy(), center_count=self.count.numpy())

    @staticmethod
    def load(path: Path | str, classes: int, features: int) -> Clusters:
        """Read a file of ``save``.

        Raises:
            UserError: no such file, another kind of file, or one for other classes or features.
        """
        remedy = "write it with Clusters.save (methods/pix2pixhd/README.md)"
        if not Path(path).is_file():
            raise UserError(f"clusters: no file at {path}", remedy)
        try:
            with np.load(path, allow_pickle=False) as stored:
                centers, count = stored["centers"], stored["center_count"]
        except (ValueError, KeyError, OSError, TypeError, AttributeError) as error:
            raise UserError(f"{path} holds no cluster centres: {error}", remedy) from error
        found = Clusters(torch.from_numpy(centers).float(), torch.from_numpy(count).long())
        shape = tuple(found.centers.shape)
        if len(shape) != 3 or (shape[0], shape[2]) != (classes, features):
            raise UserError(
                f"{path} holds centres {shape}; {classes} classes and {features} features are "
                "expected"
            )
        if tuple(found.count.shape) != (classes,) or not 0 <= int(found.count.max()) <= shape[1]:
            raise UserError(f"{path}: 'center_count' does not fit centres {shape}", remedy)
        return found

    def choose(self, classes: Tensor, normal: Tensor) -> Tensor:
        """A centre of each class, chosen evenly.

        Args:
            classes: (R,) int64; -1 for none.
            normal: (R,) standard normal draws; their quantile picks the centre.

        Returns:
            (R, F); zeros for a class without centres.
        """
        centers, count = self.centers.to(normal.device), self.count.to(normal.device)
        kind = classes.clamp_min(0)
        many = count[kind]
        index = (torch.special.ndtr(normal) * many).long().minimum((many - 1).clamp_min(0))
        there = (many > 0) & (classes >= 0)
        return centers[kind, index] * there[:, None]

    def lacking(self, classes: Tensor) -> Tensor:
        """(R,) bool: which of ``classes`` (R,) have no centres; -1 has no need of any."""
        none = self.count.to(classes.device)[classes.clamp_min(0)] == 0
        return none & (classes >= 0)


def fit_clusters(rows: Tensor, classes: int, n: int = 10, seed: int = 0) -> Clusters:
    """k-means of the feature rows of a training set, by class.

    Regions that cover more than 1/64 of their picture count; a class has ``n`` centres, or as many
    as it has rows.

    Args:
        rows: (R, 4 + F), from ``Pix2PixHD.feature_rows``.
        classes: number of classes.
        n: centres a class.
        seed: of the k-means++ start.
    """
    from scipy.cluster.vq import kmeans2

    rows = rows.cpu()[rows.cpu()[:, -1] > SMALLEST]
    features = rows[:, 3:-1].double().numpy()
    centers = np.zeros((classes, n, features.shape[1]), np.float32)
    count = np.zeros(classes, np.int64)
    for c in range(classes):
        own = features[(rows[:, 1] == c).numpy()]
        count[c] = min(n, len(np.unique(own, axis=0)))
        if count[c]:
            centers[c, : count[c]] = kmeans2(own, int(count[c]), minit="++", seed=seed)[0]
    return Clusters(torch.from_numpy(centers), torch.from_numpy(count))
