"""The networks of diffusers and transformers: built, read from folders, compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn

from sisbench.core.errors import UserError
from sisbench.methods.controlnet.folders import Folders
from sisbench.methods.controlnet.library import (
    Config,
    arguments,
    first_line,
    library,
    require_known,
)
from sisbench.methods.controlnet.options import PARTS, ControlNetOptions, pair

STABLE_DIFFUSION: Mapping[str, Config] = {
    "unet": {"sample_size": 64, "cross_attention_dim": 768},
    "vae": {
        "sample_size": 512,
        "block_out_channels": [128, 256, 512, 512],
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "layers_per_block": 2,
        "latent_channels": 4,
        "scaling_factor": 0.18215,
    },
    "text_encoder": {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "vocab_size": 49408,
        "max_position_embeddings": 77,
        "hidden_act": "quick_gelu",
    },
}
"""Stable Diffusion 1.5, where it differs from diffusers' defaults."""
_LARGEST = 256
"""Side of the images where nothing is said of it."""
_CONDITIONING = (16, 32, 96, 256)
_OF_THE_WRITER = {"architectures", "dtype", "model_type", "torch_dtype", "transformers_version"}
_PLAIN = ("addition_embed_type", "class_embed_type", "encoder_hid_dim_type")


def _class(part: str) -> Any:
    names = {"unet": "UNet2DConditionModel", "controlnet": "ControlNetModel"}
    if part == "text_encoder":
        return library("transformers").CLIPTextModel
    return getattr(library(), names.get(part, "AutoencoderKL"))


# ---- networks -----------------------------------------------------------------------------------


def build_parts(configs: Mapping[str, Config]) -> dict[str, nn.Module]:
    """The four networks without trained weights; ``configs`` may lack some: Stable Diffusion 1.5's
    then, and a ControlNet that copies the UNet's encoder.

    Raises:
        UserError: an unknown key, or values that make no network.
    """
    given = {**STABLE_DIFFUSION, **configs}
    parts = {part: _built(part, given[part]) for part in ("unet", "vae", "text_encoder")}
    copied = given.get("controlnet") or _copy_of(parts["unet"], latent_factor(parts["vae"]))
    found = {**parts, "controlnet": _built("controlnet", copied)}
    return {part: found[part] for part in PARTS}


def known_keys(part: str) -> set[str]:
    """Keys of a network's configuration that say what it is, not what wrote it."""
    if part != "text_encoder":
        return arguments(_class(part))
    default = library("transformers").CLIPTextConfig()
    return {*default.to_dict(), *arguments(type(default))} - _OF_THE_WRITER


def _built(part: str, config: Config) -> nn.Module:
    kind = _class(part)
    require_known(part, config, known_keys(part))
    try:
        if part == "text_encoder":
            network: nn.Module = kind(library("transformers").CLIPTextConfig(**config))
        else:
            network = kind.from_config(dict(config))
    except (ValueError, TypeError, KeyError, RuntimeError, ZeroDivisionError) as error:
        raise UserError(f"controlnet: {part} makes no network: {first_line(error)}") from error
    return network


def _copy_of(unet: Any, factor: int) -> dict[str, Any]:
    """The configuration of the ControlNet that starts as a copy of ``unet``."""
    shared = arguments(_class("controlnet")) & set(unet.config)
    steps = factor.bit_length() - 1
    own = {"conditioning_embedding_out_channels": list(_CONDITIONING[: steps + 1])}
    return {k: unet.config[k] for k in sorted(shared)} | own


def load_parts(folders: Folders) -> dict[str, nn.Module]:
    """The networks of ``folders`` with their weights, in float32. No network access; nothing but
    safetensors is read.

    Raises:
        UserError: weights that are missing, unexpected, of another shape or damaged.
    """
    return {part: _loaded(part, folders) for part in PARTS}


def _loaded(part: str, folders: Folders) -> nn.Module:
    folder, weights = folders.parts[part], folders.weights[part]
    # the other way of diffusers needs accelerate, and says so at each call
    own = {} if part == "text_encoder" else {"low_cpu_mem_usage": False}
    try:
        with _quiet():
            network, info = _class(part).from_pretrained(
                str(folder),
                local_files_only=True,
                use_safetensors=True,
                variant=weights.variant,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # listed in ``info``, and refused below
                **own,
            )
    except Exception as error:  # whatever the libraries raise: the folder cannot be loaded
        raise UserError(f"{folder} cannot be loaded: {first_line(error)}") from error
    kinds = {"missing": "missing_keys", "unexpected": "unexpected_keys"} | {
        "mis-shaped": "mismatched_keys"
    }
    faults = {word: sorted(map(_key, info.get(kind) or ())) for word, kind in kinds.items()}
    faults = {word: [k for k in keys if "position_ids" not in k] for word, keys in faults.items()}
    if any(faults.values()):
        listed = [f"{len(k)} {word} ({', '.join(k[:3])})" for word, k in faults.items() if k]
        raise UserError(
            f"{folder} does not fit its config.json: {'; '.join(listed)}",
            "config.json and weights are of different networks, or the file is incomplete",
        )
    made: nn.Module = network.float()
    return made


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the libraries' own progress bar and warnings: what they warn of is an error here."""
    logs = [library(name).utils.logging for name in ("diffusers", "transformers")]
    levels = [log.get_verbosity() for log in logs]
    shown = logs[1].is_progress_bar_enabled()
    for log in logs:
        log.set_verbosity_error()
    logs[1].disable_progress_bar()
    try:
        yield
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.set_verbosity(level)
        if shown:
            logs[1].enable_progress_bar()


def _key(entry: Any) -> str:
    """The name in an entry of the libraries' lists: itself, or the first of name and shapes."""
    return str(entry[0] if isinstance(entry, tuple | list) else entry)


# ---- how they fit each other --------------------------------------------------------------------


def latent_factor(vae: Any) -> int:
    """Pixels of an image to one of the latent."""
    return int(2 ** (len(vae.config.block_out_channels) - 1))


def require_match(parts: Mapping[str, Any]) -> None:
    """Check that a ControlNet and a base model belong together.

    Raises:
        UserError: says which quantity differs.
    """
    unet, control, vae, text = (parts[name].config for name in PARTS)
    width = control.cross_attention_dim
    if width != unet.cross_attention_dim:
        raise UserError(
            f"controlnet: the ControlNet's cross_attention_dim is {width}, the base model's "
            f"{unet.cross_attention_dim}",
            "take the base that it was trained on (Stable Diffusion 1.5: 768, 2.1: 1024)",
        )
    if text.hidden_size != width:
        raise UserError(
            f"controlnet: the text encoder gives {text.hidden_size} numbers a token, the UNet "
            f"takes {width}",
            "the parts of the base model's folder do not belong together",
        )
    for name, config in (("UNet", unet), ("ControlNet", control)):
        if config.in_channels != vae.latent_channels:
            raise UserError(
                f"controlnet: the {name} takes {config.in_channels} channels, the latent has "
                f"{vae.latent_channels}",
                "9 is an inpainting model: take the plain one",
            )
        special = [k for k in _PLAIN if config.get(k)]
        if special:
            raise UserError(
                f"controlnet: the {name} wants conditions besides the prompt: "
                f"{special[0]} is {config[special[0]]}",
                "networks of Stable Diffusion 1 and 2 are run here",
            )
    for key in ("block_out_channels", "layers_per_block"):
        if _plain(control[key]) != _plain(unet[key]):
            raise UserError(
                f"controlnet: {key} of the ControlNet is {_plain(control[key])}, of the UNet "
                f"{_plain(unet[key])}",
                "take the base that the ControlNet was trained on",
            )
    shrunk = 2 ** (len(control.conditioning_embedding_out_channels) - 1)
    if shrunk != latent_factor(parts["vae"]):
        raise UserError(
            f"controlnet: the ControlNet shrinks its condition {shrunk} times, the autoencoder "
            f"an image {latent_factor(parts['vae'])} times"
        )
    if control.conditioning_channels != 3 or control.global_pool_conditions:
        raise UserError(
            "controlnet: the ControlNet takes no colour picture in place "
            f"(conditioning_channels {control.conditioning_channels}, global_pool_conditions "
            f"{control.global_pool_conditions})",
            "a segmentation ControlNet is needed",
        )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


# ---- sizes ---------------------------------------------------------------------------------------


def drawn_sizes(
    o: ControlNetOptions, parts: Mapping[str, Any]
) -> tuple[tuple[int, int], tuple[int, int]]:
    """(H, W) of the images, and of what the networks draw.

    Raises:
        UserError: a resolution that the networks cannot halve as often as they do.
    """
    unet, factor = parts["unet"].config, latent_factor(parts["vae"])
    step = factor * 2 ** (len(unet.block_out_channels) - 1)
    side = pair(unet.sample_size)
    short = min(side) * factor if side else 512
    size, resolution = pair(o.size), pair(o.resolution)
    if resolution is None:
        wanted = size or (short, short)
        scale = short / min(wanted)
        high, wide = (max(1, round(s * scale / step)) * step for s in wanted)
        resolution = high, wide
    if any(s % step for s in resolution):
        raise UserError(
            f"controlnet: resolution {resolution[0]} x {resolution[1]} is no multiple of {step}",
            f"{step} = {factor} of the autoencoder x {step // factor} of the UNet",
        )
    if size is None:
        ratio = min(1.0, _LARGEST / min(resolution))
        size = (round(resolution[0] * ratio), round(resolution[1] * ratio))
    return size, resolution
