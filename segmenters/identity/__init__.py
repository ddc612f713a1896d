"""Identity networks: embeddings of faces and persons, compared by their cosine."""

from __future__ import annotations

from typing import Any

from sisbench.core.registry import Registry
from sisbench.segmenters.base import accept_options
from sisbench.segmenters.identity.base import Identity, subject_boxes

__all__ = ["Identity", "create_identity", "registry", "subject_boxes"]

registry = Registry(
    "sisbench.embedders",
    {
        "facenet": "sisbench.segmenters.identity.facenet:FaceNet",
        "reid": "sisbench.segmenters.identity.reid:PersonReID",
    },
    "sisbench.segmenters.identity.base:Identity",
)


def create_identity(name: str, /, **options: Any) -> Identity:
    """An identity network, without weights yet (``load`` brings them).

    Raises:
        UserError: unknown name or option.
        Unavailable: a library that it needs is not installed.
    """
    owner = registry.get(name)
    network: Identity = owner(**accept_options(owner, name, options))
    return network
