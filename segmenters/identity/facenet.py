"""FaceNet (InceptionResnetV1 trained on VGGFace2), the network of the face recognition score."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor

from sisbench.core.errors import Unavailable
from sisbench.core.resize import resize_bilinear_pil
from sisbench.segmenters.base import parse_size
from sisbench.segmenters.identity.base import Identity
from sisbench.segmenters.loading import Part

_CLASSES = 8631  # of the classifier in the released file


class FaceNet(Identity):
    """facenet-pytorch's InceptionResnetV1: unit vectors of 512.

    CA2-SIS names "an InceptionV3 pre-trained on VGG-Face2", which nobody has published; that this
    network is meant is our inference. Whole pictures by default: CelebA-HQ faces are aligned.

    Args:
        input_size: side or (height, width) that pictures are resized to by Pillow's BILINEAR; the
            network was trained at 160, other sizes shift the scores.

    Raises:
        Unavailable: facenet-pytorch is not installed.
    """

    name = "facenet"
    title = "FaceNet (VGGFace2)"
    paper = "Schroff et al., CVPR 2015, arXiv:1503.03832; weights 20180402-114759, facenet-pytorch"
    dim = 512

    def __init__(self, *, input_size: int | tuple[int, int] = 160) -> None:
        self.size = height, width = parse_size(input_size, self.name)
        self._library = _library()
        super().__init__(input_size=[height, width])

    def parts(self) -> dict[str, Part]:
        """``InceptionResnetV1``: ``20180402-114759-vggface2.pt``, without its classifier."""
        network = self._library.InceptionResnetV1(pretrained=None)
        classifier = {"logits.weight": (_CLASSES, 512), "logits.bias": (_CLASSES,)}
        file = "20180402-114759-vggface2.pt"
        return {"InceptionResnetV1": Part(network, "facenet", file, classifier)}

    def embeddings(self, images: Tensor, boxes: Tensor | None) -> Tensor:
        """(B, 512) unit vectors; the input is (x - 127.5) / 128."""
        if boxes is None:
            x = resize_bilinear_pil(images, self.size)
        else:
            crops = [
                resize_bilinear_pil(image[:, top:bottom, left:right], self.size)
                for image, (top, bottom, left, right) in zip(images, boxes.tolist())
            ]
            x = torch.stack(crops) if crops else images.new_empty(0, 3, *self.size)
        return self.loaded()["InceptionResnetV1"](x.float().sub_(127.5).div_(128))


def _library() -> Any:
    try:
        return importlib.import_module("facenet_pytorch")
    except ImportError as error:
        raise Unavailable(
            f"facenet needs the library facenet-pytorch ({error})",
            "pip install 'sisbench[identity]' (2.5.x; 2.6.0 would downgrade torch)",
        ) from error
