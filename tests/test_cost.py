"""Operations of every kind of layer against closed formulas."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sisbench.core.cost import operations


def drawn(*shape: int) -> Tensor:
    return torch.ones(shape)


SDPA = F.scaled_dot_product_attention
LAYERS: dict[str, tuple[Callable[[], Tensor], int]] = {  # multiply-adds
    "linear": (lambda: F.linear(drawn(2, 5, 7), drawn(11, 7), drawn(11)), 2 * 5 * 7 * 11),
    "linear without bias": (lambda: F.linear(drawn(5, 7), drawn(11, 7)), 5 * 7 * 11),
    "bmm": (lambda: drawn(3, 5, 7) @ drawn(3, 7, 11), 3 * 5 * 7 * 11),
    "baddbmm": (lambda: torch.baddbmm(drawn(11), drawn(3, 5, 7), drawn(3, 7, 11)), 3 * 5 * 7 * 11),
    "conv": (
        lambda: F.conv2d(drawn(2, 4, 9, 8), drawn(6, 4, 3, 3), padding=1),
        2 * 9 * 8 * 4 * 6 * 9,
    ),
    "strided conv": (
        lambda: F.conv2d(drawn(1, 4, 8, 8), drawn(6, 4, 3, 3), stride=2, padding=1),
        4 * 4 * 4 * 6 * 9,
    ),
    "grouped conv": (
        lambda: F.conv2d(drawn(1, 4, 8, 8), drawn(6, 2, 3, 3), padding=1, groups=2),
        8 * 8 * 2 * 6 * 9,
    ),
    "transposed conv": (
        lambda: F.conv_transpose2d(drawn(1, 4, 8, 8), drawn(4, 6, 4, 4), stride=2, padding=1),
        8 * 8 * 4 * 6 * 16,
    ),
    "attention": (
        lambda: SDPA(drawn(2, 3, 64, 16), drawn(2, 3, 40, 16), drawn(2, 3, 40, 16)),
        2 * 3 * 64 * 40 * 32,
    ),
    "attention, wider values": (
        lambda: SDPA(drawn(1, 3, 64, 16), drawn(1, 3, 40, 16), drawn(1, 3, 40, 24)),
        3 * 64 * 40 * 40,
    ),
    "attention, mask": (
        lambda: SDPA(
            drawn(1, 3, 64, 16), drawn(1, 3, 40, 16), drawn(1, 3, 40, 16), drawn(64, 40).bool()
        ),
        3 * 64 * 40 * 32,
    ),
}


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.enable_grad], ids=["infer", "grad"])
@pytest.mark.parametrize("name", LAYERS)
def test_operations_are_those_of_the_formula(name: str, mode: Callable[[], object]) -> None:
    call, products = LAYERS[name]
    with mode():  # type: ignore[attr-defined]
        assert operations(call) == 2 * products


def test_the_gradient_of_attention_counts() -> None:
    q, k, v = (drawn(1, 2, 32, 8).requires_grad_() for _ in range(3))
    forward = 2 * 2 * 32 * 32 * (8 + 8)
    assert operations(lambda: SDPA(q, k, v).sum().backward()) == forward * (1 + 2.5)


def test_every_fused_attention_of_this_torch_has_a_formula() -> None:
    from torch.utils.flop_counter import flop_registry

    from sisbench.core.cost import _formulas_torch_lacks

    known = flop_registry.keys() | _formulas_torch_lacks().keys()
    names = [n for n in torch._C._jit_get_all_schemas() if "_scaled_dot_product_" in n.name]
    fused = {n.name.removeprefix("aten::") for n in names if n.name.startswith("aten::")}
    products = {"_scaled_dot_product_attention_math"}  # made of matrix products, which count
    unknown = {n for n in fused - products if getattr(torch.ops.aten, n) not in known}
    assert not {n for n in unknown if "quantized" not in n and "low_p" not in n}


def test_an_attention_layer_costs_the_same_on_a_cpu_as_on_paper() -> None:
    def cost(device: str) -> float:
        with torch.device(device):
            layer = torch.nn.Linear(64, 64, bias=False)
            x = torch.ones(2, 50, 64)
        heads = layer(x).unflatten(2, (4, 16)).transpose(1, 2)
        return operations(lambda: SDPA(heads, heads, heads))

    assert cost("cpu") == cost("meta") == 2 * 2 * 2 * 4 * 50 * 50 * 16
