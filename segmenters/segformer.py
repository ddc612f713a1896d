"""SegFormer and its like from transformers, by model id or folder: an alternative parser."""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import yaml
from torch import Tensor

from sisbench.core.errors import Unavailable, UserError
from sisbench.core.state_dict import state_hash
from sisbench.segmenters.base import Segmenter, check_images

if TYPE_CHECKING:
    from sisbench.core.label_space import LabelSpace

MODELS = {
    "celebamask_hq": "jonathandinu/face-parsing",
    "ade20k": "nvidia/segformer-b5-finetuned-ade-640-640",
}
"""The model id that a label space gets where none is named."""

_FACE_SIDE = 512
_SYNONYMS = {"television receiver": "television"}
_MAPPING_HINT = (
    "say what each label means: mapping: {model label: class, ...}, or a YAML file of it"
)


class SegFormer(Segmenter):
    """A semantic segmentation model of transformers, resized and normalised by its own processor.

    Scores are enlarged bilinearly to the comparison size before argmax: 512 x 512 for
    ``celebamask_hq``, the size of the photographs elsewhere.

    Args:
        space: any label space; those in ``MODELS`` have a default model.
        model: model id or folder (``config.json``, ``preprocessor_config.json``, weights).
        mapping: what each label of the model is in ``space``: a mapping of its names or numbers to
            class names or ids, or a YAML or JSON file of that. Without one, the model's own list of
            names must be the space's, in order (less a leading ignored class): lists that only
            hold the same names were published with wrong orders.
        download: whether transformers may fetch a model that is not on this machine.

    Raises:
        UserError: no model named for this label space, or a mapping that is none.
    """

    name = "segformer"
    title = "SegFormer"
    paper = "Xie et al., NeurIPS 2021, arXiv:2105.15203 (transformers)"

    def __init__(
        self,
        space: LabelSpace,
        *,
        model: str | None = None,
        mapping: Mapping[str | int, str | int] | str | Path | None = None,
        download: bool = False,
    ) -> None:
        found = model or MODELS.get(space.name)
        if found is None:
            raise UserError(
                f"segformer has no default model for '{space.name}'", "give a model id or folder"
            )
        self.model, self.download = str(found), download
        self.mapping = _read_mapping(mapping)
        super().__init__(space, model=self.model, mapping=self.mapping)
        self.net: Any = None

    def compare_size(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """512 x 512 for faces, else the size of the photographs."""
        if self.space.name == "celebamask_hq":
            return (_FACE_SIDE, _FACE_SIDE)
        return image_size

    def load(self, weights: Path | str | None = None, device: str = "cpu") -> SegFormer:
        """Load ``weights`` (a folder), or the model that was named.

        Raises:
            Unavailable: transformers is not installed, or the model is not on this machine.
            UserError: weights are missing in it, or its labels do not fit the label space.
        """
        source = str(weights or self.model)
        library = _library()
        where = {"local_files_only": not self.download}
        try:
            self.processor = library.AutoImageProcessor.from_pretrained(source, **where)
            self.net, info = library.AutoModelForSemanticSegmentation.from_pretrained(
                source, output_loading_info=True, **where
            )
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0][:200]
            raise Unavailable(
                f"segformer cannot load '{source}': {reason}",
                "copy the model's folder here and name it, or allow the fetch: download: true",
            ) from error
        absent = [str(k) for group in ("missing_keys", "mismatched_keys") for k in info[group]]
        if absent:
            raise UserError(
                f"{source} lacks weights of the network ({len(absent)}): {', '.join(absent[:6])}",
                "it holds the backbone alone, or another network",
            )
        self.order = self._label_order(self.net.config.id2label)
        self.net.eval().requires_grad_(False).to(device)
        self.device = torch.device(device)
        self.weights_info = {
            "source": source,
            "commit": getattr(self.net.config, "_commit_hash", None),
            "sha256": state_hash({"": self.net.state_dict()}),
            "transformers": library.__version__,
        }
        return self

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 RGB -> (B, h, w) int64 class ids at ``compare_size((H, W))``.

        Raises:
            UserError: not uint8, not (B, 3, H, W), or no model loaded.
        """
        check_images(images, self.name)
        self._loaded()
        size = self.compare_size((images.shape[-2], images.shape[-1]))
        if not len(images):
            return torch.empty(0, *size, dtype=torch.int64, device=self.device)
        pictures = list(images.permute(0, 2, 3, 1).cpu().numpy())
        inputs = self.processor(images=pictures, return_tensors="pt").to(self.device)
        outputs = self.net(**inputs)
        found = self.processor.post_process_semantic_segmentation(
            outputs, target_sizes=[size] * len(images)
        )
        return self.order.to(self.device)[torch.stack(found)]

    def fingerprint(self) -> str:
        """Hash of weights, preprocessing, label mapping, library version and code version."""
        self._loaded()
        facts = [self.name, 1, self.space.name, self.order.tolist(), self.processor.to_dict()]
        facts += [self.weights_info["sha256"], self.weights_info["transformers"]]
        return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()

    def _loaded(self) -> None:
        if self.net is None:
            raise UserError("segformer has no weights yet", "call load() first")

    def _label_order(self, names: Mapping[int, str]) -> Tensor:
        """(labels,) int64: class id of every label of the model."""
        listed = [names[i] for i in sorted(names)]
        if self.mapping is not None:
            return torch.tensor(_mapped(listed, self.mapping, self.space))
        classes = [_plain(c) for c in self.space.classes]
        for first in (0, 1) if self.space.ignore == 0 else (0,):
            if [_plain(n) for n in listed] == classes[first:]:
                return torch.arange(first, first + len(listed))
        raise UserError(
            f"the labels of '{self.model}' are not those of '{self.space.name}' in order:\n"
            f"  model: {', '.join(listed)}\n  space: {', '.join(self.space.classes)}",
            _MAPPING_HINT,
        )


def _mapped(listed: list[str], mapping: Mapping[str, str | int], space: LabelSpace) -> list[int]:
    """Class ids of the model's labels under ``mapping``, which must cover each of them."""
    missing = [n for i, n in enumerate(listed) if n not in mapping and str(i) not in mapping]
    known = {*listed, *map(str, range(len(listed)))}
    unknown = [k for k in mapping if k not in known]
    if missing or unknown:
        raise UserError(
            f"the mapping leaves out the labels {missing[:6]} and names unknown ones {unknown[:6]}",
            f"the model's labels: {', '.join(listed)}",
        )
    return [space.index(mapping.get(n, mapping.get(str(i), n))) for i, n in enumerate(listed)]


def _plain(name: str) -> str:
    text = name.strip().lower().replace("_", " ")
    return _SYNONYMS.get(text, text)


def _read_mapping(given: Any) -> dict[str, str | int] | None:
    """A mapping with text keys, from itself or from a file."""
    if given is None:
        return None
    raw = given
    if isinstance(given, (str, Path)):
        path = Path(given)
        if not path.is_file():
            raise UserError(f"segformer: no mapping file {path}", _MAPPING_HINT)
        try:
            raw = yaml.safe_load(path.read_text(encoding="utf-8"))
        except yaml.YAMLError as error:
            raise UserError(f"{path} is not YAML: {error}") from error
    if not isinstance(raw, Mapping) or not all(isinstance(v, (str, int)) for v in raw.values()):
        raise UserError(f"segformer: mapping {given!r} is no mapping of labels", _MAPPING_HINT)
    return {str(k): v for k, v in raw.items()}


def _library() -> Any:
    try:
        return importlib.import_module("transformers")
    except ImportError as error:
        raise Unavailable(
            f"segformer needs the library transformers ({error})", "pip install 'sisbench[hf]'"
        ) from error
