"""The laws of the conformance kit: images that must be equal, whatever the method."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from sisbench.core.batch import Batch
from sisbench.core.noise import Noise, ZeroNoise

if TYPE_CHECKING:
    from torch import Tensor

    from sisbench.methods import Method

ROUNDING = 1e-3
"""Largest difference of images on the scale [-1, 1] that float rounding explains: an eighth of a
step of the 8-bit scale. Sums of another order (another batch, other memory formats) stay below."""


class Broken(Exception):
    """A clause does not hold."""


def require(holds: bool, otherwise: str) -> None:
    """Raises ``Broken`` unless it holds."""
    if not holds:
        raise Broken(otherwise)


def same(a: Tensor, b: Tensor, otherwise: str, most: float = ROUNDING) -> float:
    """The largest difference; ``Broken`` above ``most``, 0 for the same bits."""
    require(a.shape == b.shape, f"{otherwise}: {tuple(a.shape)} and {tuple(b.shape)}")
    worst = float((a.float() - b.float()).abs().max())
    require(worst <= most, f"{otherwise}: they differ by {worst:.1e}")
    return worst


class Laws:
    """The laws on one loaded method and one batch of at least three samples.

    Calls that repeat the same arithmetic must give the same bits on a CPU; calls that may sum in
    another order must agree within ``ROUNDING``.
    """

    def __init__(self, method: Method, batch: Batch) -> None:
        self.method, self.x = method, batch
        self.r = rows(batch, [*range(1, len(batch)), 0])
        self.noise = Noise(batch.ids, 0)
        self.bits = 0.0 if batch.image.device.type == "cpu" else ROUNDING
        self.styled = "reconstruct" in method.can

    def clauses(self) -> list[tuple[str, Callable[[], str]]]:
        """Name and test of each law; a test returns a detail, "n/a..." where it says nothing."""
        return [
            ("the same call twice gives the same image", self.repeat),
            ("a sample's image does not depend on its batch", self.alone),
            ("a sample's image does not depend on the order of samples", self.order),
            ("no state is kept between calls", self.no_state),
            ("images do not depend on grad mode", self.grad_mode),
            ("swapping every class is transfer, swapping none reconstruction", self.swaps),
            ("interpolation ends at reconstruction and at transfer", self.ends),
            ("transfer from oneself is reconstruction", self.oneself),
            ("swapping classes is keeping the others", self.complement),
            ("names of instances do not matter", self.instances),
        ]

    def draw(self, batch: Batch, noise: Any = None) -> Tensor:
        """The image of the task that any method has."""
        noise = Noise(batch.ids, 0) if noise is None else noise
        return (self.method.reconstruct if self.styled else self.method.sample)(batch, noise)

    # ---- calls and batches --------------------------------------------------------------------

    def repeat(self) -> str:
        return _detail(same(self.draw(self.x), self.draw(self.x), "a second call", self.bits))

    def alone(self) -> str:
        return _detail(max(_alone(self, batch) for batch in (self.x, self._with_wide_ids())))

    def order(self) -> str:
        backwards = list(reversed(range(len(self.x))))
        image = self.draw(rows(self.x, backwards))
        return _detail(same(image.flip(0), self.draw(self.x), "in reversed order"))

    def no_state(self) -> str:
        first = self.draw(self.x)
        for image in self._other_calls():
            require(bool(image.isfinite().all()), "NaN or infinity")
        worst = same(self.draw(self.x), first, "after other calls", self.bits)
        require(not self.method.net.training, "the networks are left in training mode")
        if not self.styled:
            return _detail(worst)
        with torch.inference_mode():
            m = self.method
            layout, style = m.encode_layout(self.x), m.encode_style(self.x)
            m.render(m.encode_layout(self.r), m.encode_style(self.r), self.noise)
            image = m.render(layout, style, self.noise)
        found = same(image, first, "rendered after another photograph was encoded", self.bits)
        return _detail(max(worst, found))

    def _other_calls(self) -> Iterator[Tensor]:
        m, r, can = self.method, self.r, self.method.can
        noise = Noise(r.ids, 1)
        yield self.draw(r, noise)
        if "transfer" in can:
            yield m.transfer(r, self.x, noise)
        if "sample" in can:
            yield m.sample(r[:1], Noise(r.ids[:1], 1))
        if "shape_transfer" in can:
            yield m.shape_transfer(r, self.x, noise, self._some())

    def grad_mode(self) -> str:
        m, images = self.method, []
        for mode in (torch.inference_mode(), torch.no_grad(), torch.enable_grad()):
            with mode:
                layout = m.encode_layout(self.x)
                style = (
                    m.encode_style(self.x) if self.styled else m.sample_style(self.x, self.noise)
                )
                images.append(m.render(layout, style, self.noise).detach().clone())
        return _detail(max(same(i, images[0], "with gradients on") for i in images[1:]))

    # ---- the algebra --------------------------------------------------------------------------

    def _some(self) -> list[int]:
        """Every other class that the first two samples share, so that a swap changes pixels; whole
        groups where the method has them."""
        shared = [int(c) for c in self.x.label[0].unique() if bool((self.x.label[1] == c).any())]
        chosen = torch.zeros(1, self.method.num_classes, dtype=torch.bool)
        chosen[0, [c for c in shared if c >= 0][::2] or [0]] = True
        return [int(c) for c in self.method.closed(chosen)[0].nonzero()]

    def swaps(self) -> str:
        if "class_transfer" not in self.method.can:
            return "n/a: no transfer of single classes"
        x, r, m = self.x, self.r, self.method
        every = m.transfer(x, r, self.noise, range(m.num_classes))
        whole = m.transfer(x, r, self.noise)
        none = m.transfer(x, r, self.noise, [])
        return _detail(
            same(every, whole, "all classes swapped against transfer", self.bits),
            same(none, m.reconstruct(x, self.noise), "no class swapped", self.bits),
        )

    def ends(self) -> str:
        if "interpolate_style" not in self.method.can:
            return "n/a: no interpolation of styles"
        x, r, m = self.x, self.r, self.method
        own, other = m.reconstruct(x, self.noise), m.transfer(x, r, self.noise)
        found = [
            same(m.interpolate_style(x, r, self.noise, 0.0), own, "alpha 0", self.bits),
            same(m.interpolate_style(x, r, self.noise, 1.0), other, "alpha 1", self.bits),
        ]
        if "class_transfer" in m.can:
            some = m.interpolate_style(x, r, self.noise, 1.0, self._some())
            swapped = m.transfer(x, r, self.noise, self._some())
            found.append(same(some, swapped, "alpha 1 of some classes", self.bits))
        if "interpolate_shape" in m.can:
            start = m.interpolate_shape(x, r, self.noise, 0.0)
            found.append(same(start, own, "shape at alpha 0", self.bits))
        return _detail(*found)

    def oneself(self) -> str:
        if "transfer" not in self.method.can:
            return "n/a: no style transfer"
        x, m, noise, some = self.x, self.method, self.noise, self._some()
        images = {"transfer": m.transfer(x, x, noise)}
        if "class_transfer" in m.can:
            images["class transfer"] = m.transfer(x, x, noise, some)
        if "subject_transfer" in m.can:
            images["subject transfer"] = m.subject_transfer(x, x, noise, some)
        if "shape_transfer" in m.can:
            images["shape transfer"] = m.shape_transfer(x, x, noise, some)
        if "interpolate_style" in m.can:
            images["interpolation"] = m.interpolate_style(x, x, noise, 0.3)
        own = m.reconstruct(x, noise)
        return _detail(*(same(image, own, name, self.bits) for name, image in images.items()))

    def complement(self) -> str:
        if "class_transfer" not in self.method.can:
            return "n/a: no transfer of single classes"
        m, some = self.method, self._some()
        others = [c for c in range(m.num_classes) if c not in some]
        with torch.inference_mode():
            own, other = m.encode_style(self.x), m.encode_style(self.r)
            layout = m.encode_layout(self.x)
            one = m.render(layout, own.swap(other, some), self.noise)
            two = m.render(layout, other.swap(own, others), self.noise)
        return _detail(same(one, two, "classes swapped against the others kept", self.bits))

    # ---- instances ----------------------------------------------------------------------------

    def _with_instances(self) -> Batch:
        """Two instances of each class, left and right, numbered 0..2C-1."""
        right = torch.arange(self.x.label.shape[2], device=self.x.label.device)
        right = (right >= self.x.label.shape[2] // 2).long()
        return replace(self.x, instance=2 * self.x.label.clamp_min(0) + right)

    def _with_wide_ids(self) -> Batch:
        """The same, but the ids of the first sample are large and those of the others odd."""
        batch = self._with_instances()
        assert batch.instance is not None
        ids = 2 * batch.instance + 1
        ids[0] += 300
        return replace(batch, instance=ids)

    def instances(self) -> str:
        batch, zero = self._with_instances(), ZeroNoise()
        assert batch.instance is not None
        count = int(batch.instance.max()) + 1
        names = torch.randperm(count, generator=torch.Generator().manual_seed(0))
        renamed = replace(batch, instance=names.to(batch.instance.device)[batch.instance])
        return _detail(same(self.draw(batch, zero), self.draw(renamed, zero), "ids permuted"))


def _alone(laws: Laws, batch: Batch) -> float:
    together = laws.draw(batch)
    images = [laws.draw(batch[k : k + 1]) for k in range(len(batch))]
    return same(torch.cat(images), together, "alone and in a batch")


def rows(batch: Batch, index: list[int]) -> Batch:
    """The samples of ``batch`` in another order."""
    order = torch.tensor(index, device=batch.label.device)
    return replace(
        batch,
        ids=tuple(batch.ids[k] for k in index),
        image=batch.image[order],
        label=batch.label[order],
        instance=None if batch.instance is None else batch.instance[order],
    )


def _detail(*differences: float) -> str:
    worst = max(differences)
    return "the same bits" if worst == 0 else f"largest difference {worst:.1e}"
