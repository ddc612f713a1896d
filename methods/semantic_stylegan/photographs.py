"""Photographs of SemanticStyleGAN: inverted once, kept in memory and on disk, what that costs."""

from __future__ import annotations

import dataclasses
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sisbench.core import weights
from sisbench.core.file_hash import sha256_of
from sisbench.core.state_dict import read_state, state_hash
from sisbench.methods.loadable import EncodingCost
from sisbench.methods.semantic_stylegan.inversion import Inversion, invert, tune
from sisbench.methods.semantic_stylegan.lpips import Lpips
from sisbench.methods.semantic_stylegan.network import Generator, Networks
from sisbench.methods.semantic_stylegan.options import SemanticStyleGANOptions
from sisbench.methods.semantic_stylegan.store import InversionStore, content_key

_KEPT = 1024  # inversions in memory
_KEPT_TUNED = 16  # those with a generator each
_OF_PICTURES = (
    *("truncation", "randomize_noise", "keep_inversions", "lpips_trunk"),
    "finetune_steps",
)
"""Options that the codes of a photograph do not depend on, or that enter their key by content."""


class Told(Protocol):
    """Who is told of steps and costs: a ``Loadable``."""

    on_step: Callable[[str, int, int], None]
    encoding_cost: EncodingCost | None


class Inversions:
    """What is found for photographs: from memory, from disk, or by descent.

    Args:
        net: generator and mean latent.
        options: of the method.
    """

    def __init__(self, net: Networks, options: SemanticStyleGANOptions) -> None:
        self.net, self.options = net, options
        self._lpips: Lpips | None = None
        self._found: OrderedDict[str, Inversion] = OrderedDict()
        self._tuned: dict[str, Generator] = {}

    def clear(self) -> None:
        """Forget what belongs to other weights."""
        self._found.clear()
        self._tuned.clear()

    def find(self, image: Tensor, name: str, identity: str | None, told: Told) -> Inversion:
        """The inversion of a photograph. One of another size than the network's is brought to it by
        Pillow's LANCZOS, as officially.

        Args:
            image: (3, H, W) in [-1, 1].
            name: what progress calls it.
            identity: hash of the weights; without one nothing is kept on disk.
            told: of steps and seconds.

        Raises:
            Unavailable: the LPIPS loss has no trunk.
        """
        o, start = self.options, time.perf_counter()
        image = image if tuple(image.shape[1:]) == (o.size, o.size) else lanczos(image, o.size)
        key = content_key(image, self._about(identity))
        found = self._found.get(key)
        if found is None:
            kept = o.keep_inversions and identity is not None
            found = self._stored_or_new(key, image, name, kept, told)
        self._found[key] = found
        self._found.move_to_end(key)
        while len(self._found) > (_KEPT_TUNED if o.finetune_steps else _KEPT):
            self._tuned.pop(self._found.popitem(last=False)[0], None)
        _count(told, time.perf_counter() - start, found.seconds)
        return found

    def _stored_or_new(
        self, key: str, image: Tensor, name: str, kept: bool, told: Told
    ) -> Inversion:
        o, device = self.options, self.net.mean_latent.device
        store = InversionStore() if kept else None
        found = store.read(key, (o.rows, o.style_dim), device) if store else None
        if found is None:
            on_step = partial(_step, told, f"inversion {name}".rstrip(), o.steps)
            found = invert(self.net, o, self.lpips(), image[None], on_step)
            if store:
                store.write(key, found)
        return replace(found, photograph=image, key=key) if o.finetune_steps else found

    def tuned_to(self, own: Inversion, told: Told) -> Generator:
        """The generator tuned to a photograph: made when its reconstruction is drawn, as nothing
        else draws with it."""
        if own.key not in self._tuned:
            start, o = time.perf_counter(), self.options
            on_step = partial(_step, told, "pivotal tuning", o.finetune_steps)
            self._tuned[own.key] = tune(self.net, o, self.lpips(), own, on_step)
            _count(told, time.perf_counter() - start, None)
        return self._tuned[own.key]

    def lpips(self) -> Lpips | None:
        """The perceptual loss, read once; None where its weight is 0.

        Raises:
            Unavailable: its trunk is not there.
        """
        if self._lpips is None and self.options.lambda_lpips:
            path = weights.resolve("lpips-vgg", self.options.lpips_trunk)
            with torch.inference_mode(False):
                self._lpips = Lpips(read_state(path), str(path))
        return None if self._lpips is None else self._lpips.to(self.net.mean_latent.device)

    def _about(self, identity: str | None) -> dict[str, Any]:
        """What an inversion depends on, beside the photograph."""
        o = self.options
        options = {k: v for k, v in dataclasses.asdict(o).items() if k not in _OF_PICTURES}
        trunk = None
        if o.lambda_lpips:
            trunk = sha256_of(weights.resolve("lpips-vgg", o.lpips_trunk))
        return {
            "weights": identity,
            "options": options,
            "lpips": trunk,
            "mean_latent": state_hash({"": {"mean_latent": self.net.mean_latent}}),
        }


def _step(told: Told, what: str, total: int, done: int) -> None:
    told.on_step(what, done, total)


def _count(told: Told, spent: float, whole: float | None) -> None:
    """Add an encoding to what is counted; one whose own time is not known counts as spent."""
    cost = told.encoding_cost or EncodingCost()
    cost.spent += spent
    cost.whole += spent if whole is None else whole
    told.encoding_cost = cost


def lanczos(image: Tensor, size: int) -> Tensor:
    """(3, H, W) in [-1, 1] of 8-bit values -> (3, size, size) by Pillow's LANCZOS."""
    levels = ((image.detach().cpu() + 1) * 127.5).round().clamp(0, 255).byte()
    picture = Image.fromarray(levels.permute(1, 2, 0).numpy())
    resized = np.array(picture.resize((size, size), Image.Resampling.LANCZOS))
    return torch.from_numpy(resized).permute(2, 0, 1).to(image) / 127.5 - 1
