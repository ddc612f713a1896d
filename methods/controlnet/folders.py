"""Folders in diffusers' layout: which files of them are read, and what is wrong with others."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from sisbench.core.errors import Unavailable, UserError
from sisbench.core.file_kinds import refuse_foreign

PIPELINES = ("StableDiffusionPipeline", "StableDiffusionControlNetPipeline")
"""Pipelines whose networks and prompts are those of Stable Diffusion 1 and 2."""
TRAINED_WITH = (
    *("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas"),
    *("prediction_type", "rescale_betas_zero_snr"),
)
"""What a folder's scheduler says of the training; how it samples is this method's own choice."""

_CLASSES = {
    "unet": "UNet2DConditionModel",
    "controlnet": "ControlNetModel",
    "vae": "AutoencoderKL",
}
_BASE_PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
_SCHEDULER = "scheduler_config.json"
_TOKENIZER = (
    *("vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json"),
    *("special_tokens_map.json", "added_tokens.json"),
)
_FROM_FILE = (
    "a single file (.pth, .ckpt, .safetensors) is converted once with "
    "ControlNetModel.from_single_file(FILE).save_pretrained(FOLDER)"
)
_CONVERT = "convert it once, where you trust it: {}.from_pretrained(FOLDER).save_pretrained(FOLDER)"


@dataclass(frozen=True)
class Weights:
    """The safetensors files of one network; ``variant`` as in ``model.fp16.safetensors``."""

    files: tuple[Path, ...]
    variant: str | None


@dataclass(frozen=True)
class Folders:
    """The folders of one ControlNet with its base model, or of a base model alone.

    Attributes:
        parts: folder of each of unet, vae, text_encoder, tokenizer, scheduler and controlnet.
    """

    parts: Mapping[str, Path]

    @staticmethod
    def find(weights: Path | None, base: Path | None) -> Folders:
        """The folders behind ``weights``, a whole pipeline or a ControlNet's own folder, and behind
        ``base``, a base model; one of them may be None.

        Raises:
            Unavailable: a folder is not there.
            UserError: another pipeline, a part is missing, weights that are not safetensors.
        """
        parts = _base_parts(base, "base") if base else {}
        if weights is None:
            return Folders(parts)
        if _is_pipeline(weights):
            if base:
                raise UserError(
                    f"{weights} holds a base model of its own: 'base' names a second one",
                    f"leave 'base' out, or give {weights / 'controlnet'} as weights",
                )
            parts = _base_parts(weights, "weights") | {"controlnet": _own_controlnet(weights)}
        else:
            _require_class(weights, "controlnet")
            if not base:
                raise UserError(
                    f"{weights} holds a ControlNet alone",
                    "name its base model's folder (Stable Diffusion): options: {base: FOLDER}",
                )
            parts["controlnet"] = weights
        return Folders(parts)

    @cached_property
    def weights(self) -> dict[str, Weights]:
        """The weights of each network.

        Raises:
            UserError: none, pickled ones, or files that hold something else.
        """
        nets = {n: folder for n, folder in self.parts.items() if n in (*_CLASSES, "text_encoder")}
        return {name: _weights_of(name, folder) for name, folder in nets.items()}

    def configs(self) -> dict[str, dict[str, Any]]:
        """Configuration of each network, and what the scheduler says of the training."""
        found = {name: read_config(self.parts[name] / "config.json") for name in self.weights}
        if "scheduler" in self.parts:
            raw = read_config(self.parts["scheduler"] / _SCHEDULER)
            found["scheduler"] = {k: raw[k] for k in TRAINED_WITH if k in raw}
        return found

    def files(self) -> dict[str, Path]:
        """Every file that images depend on, by ``part/name``."""
        found = [(name, f) for name, w in self.weights.items() for f in w.files]
        found += [(name, self.parts[name] / "config.json") for name in self.weights]
        if "scheduler" in self.parts:
            found.append(("scheduler", self.parts["scheduler"] / _SCHEDULER))
            found += [("tokenizer", f) for f in tokenizer_files(self.parts["tokenizer"])]
        return {f"{part}/{path.name}": path for part, path in found}


def tokenizer_files(folder: Path) -> list[Path]:
    """The files of a tokenizer's folder."""
    return [folder / name for name in _TOKENIZER if (folder / name).is_file()]


def contents(folder: Path) -> dict[str, Path]:
    """The files that images depend on in a pipeline's, a ControlNet's or a tokenizer's folder, by
    ``part/name``."""
    if is_tokenizer(folder):
        return {f"tokenizer/{path.name}": path for path in tokenizer_files(folder)}
    if not _is_pipeline(folder):
        _require_class(folder, "controlnet")
        return Folders({"controlnet": folder}).files()
    parts = _base_parts(folder, "base")
    if (folder / "controlnet").is_dir():
        parts["controlnet"] = _own_controlnet(folder)
    return Folders(parts).files()


def is_tokenizer(folder: Path) -> bool:
    """Whether a folder holds a tokenizer."""
    both = all((folder / name).is_file() for name in _TOKENIZER[:2])
    return both or (folder / "tokenizer.json").is_file()


def read_config(path: Path) -> dict[str, Any]:
    """A JSON configuration without the library's private entries, those with a leading underscore.

    Raises:
        UserError: missing, or no JSON mapping.
    """
    return {k: v for k, v in _json(path).items() if not k.startswith("_")}


def _json(path: Path) -> dict[str, Any]:
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path.parent} has no {path.name}", "copy the whole folder") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON: {error}", "download it again") from error
    if not isinstance(raw, dict):
        raise UserError(f"{path} is no configuration, but a {type(raw).__name__}")
    return raw


def _is_pipeline(folder: Path) -> bool:
    if not folder.is_dir():
        if folder.exists():
            refuse_foreign(folder)
            raise UserError(
                f"{folder} is one file, a folder in diffusers' layout is needed", _FROM_FILE
            )
        raise Unavailable(f"no folder {folder}", "give the path of a folder in diffusers' layout")
    if (folder / "model_index.json").is_file():
        return True
    if (folder / "config.json").is_file():
        return False
    raise UserError(
        f"{folder} is no folder in diffusers' layout: neither model_index.json (a pipeline) nor "
        "config.json (a ControlNet)",
        _FROM_FILE,
    )


def _base_parts(folder: Path, option: str) -> dict[str, Path]:
    """The parts of a pipeline's folder but for its ControlNet."""
    if not _is_pipeline(folder):
        found = _json(folder / "config.json").get("_class_name", "one network")
        raise UserError(
            f"{option} is a folder of {found} alone: {folder}", "a base model has model_index.json"
        )
    index = _json(folder / "model_index.json")
    kind = index.get("_class_name")
    if kind not in PIPELINES:
        raise UserError(
            f"{folder} is a pipeline of another type: {kind}, expected {' or '.join(PIPELINES)}",
            "ControlNets of Stable Diffusion 1 and 2 are run here; not XL, inpainting, Flux",
        )
    for part in _BASE_PARTS:
        if not (folder / part).is_dir():
            what = "text encoder (no text_encoder/)" if part == "text_encoder" else f"{part}/"
            raise UserError(f"{folder} has no {what}", "copy the base model's whole folder")
    if not is_tokenizer(folder / "tokenizer"):
        raise UserError(
            f"{folder / 'tokenizer'} holds no tokenizer: vocab.json with merges.txt, or "
            "tokenizer.json",
            "copy the base model's whole folder",
        )
    for part in ("unet", "vae"):
        _require_class(folder / part, part)
    kind = (index.get("text_encoder") or ("", "CLIPTextModel"))[-1]
    if kind != "CLIPTextModel":
        raise UserError(f"{folder} has another text encoder: {kind}, expected CLIPTextModel")
    return {part: folder / part for part in _BASE_PARTS}


def _own_controlnet(folder: Path) -> Path:
    found = sorted(p for p in folder.glob("controlnet*") if p.is_dir())
    if not found:
        raise UserError(
            f"{folder} holds no ControlNet (no controlnet/)",
            "give the ControlNet's folder as weights and this one as options: {base: FOLDER}",
        )
    if len(found) > 1:
        names = ", ".join(p.name for p in found)
        raise UserError(f"{folder} holds several ControlNets: {names}", "give one of them")
    _require_class(found[0], "controlnet")
    return found[0]


def _require_class(folder: Path, part: str) -> None:
    kind, wanted = _json(folder / "config.json").get("_class_name"), _CLASSES[part]
    if kind != wanted:
        raise UserError(f"{folder} is a {kind or 'network without a class name'}, not a {wanted}")


def _weights_of(part: str, folder: Path) -> Weights:
    """The plain safetensors of one network, else its only variant."""
    stem = "model" if part == "text_encoder" else "diffusion_pytorch_model"
    found = {_variant(p.name, stem): p for p in sorted(folder.glob(f"{stem}*"))}
    named = {v: p for v, p in found.items() if v is not None}
    if not named:
        raise _no_weights(part, folder, stem)
    if "" not in named and len(named) > 1:
        names = ", ".join(p.name for p in named.values())
        raise UserError(f"{folder} has several variants of its weights: {names}", "keep one")
    variant = "" if "" in named else next(iter(named))
    path = named[variant]
    files: tuple[Path, ...] = (path,)
    if path.suffix == ".json":
        shards = {str(name) for name in _json(path).get("weight_map", {}).values()}
        if any(Path(name).name != name for name in shards):
            raise UserError(f"{path} names files outside of its folder", "download it again")
        files = (path, *(folder / name for name in sorted(shards)))
    for file in files:
        if file.suffix != ".json":
            refuse_foreign(file)
    return Weights(files, variant or None)


def _variant(name: str, stem: str) -> str | None:
    """The variant ("" for none) that a weights file, or the index of its shards, is of; None for
    any other file."""
    rest = name.removeprefix(stem)
    for head, tail in (("", ".safetensors"), (".safetensors.index", ".json")):
        if rest.startswith(head) and rest.endswith(tail):
            middle = rest[len(head) : len(rest) - len(tail)]
            if "-of-" not in middle and ".index" not in middle:
                return middle.removeprefix(".")
    return None


def _no_weights(part: str, folder: Path, stem: str) -> UserError:
    kind = _CLASSES.get(part, "CLIPTextModel")
    for suffix, what in ((".bin", "a pickle, which is not opened"), (".gguf", "GGUF (quantised)")):
        others = sorted(folder.glob(f"*{suffix}"))
        if others:
            hint = _CONVERT.format(kind) if suffix == ".bin" else "give the unquantised weights"
            return UserError(f"{folder} holds its weights as {what}: {others[0].name}", hint)
    return UserError(f"{folder} holds no weights: no {stem}.safetensors", "copy the whole folder")
