"""Parsers and identity networks against the same networks as their repositories run them:
``python -m sisbench.perf parsers``."""

from __future__ import annotations

from functools import partial
from typing import IO, Any

from sisbench.perf.samples import pictures
from sisbench.perf.timing import interleaved

CASES = {
    "celebamask_unet": "celebamask_hq",
    "bisenet_face": "celebamask_hq",
    "mit_ade20k": "ade20k",
    "facenet": "",
    "reid": "",
}
_MOST = 1e-4
DEFAULT = ("celebamask_unet", "bisenet_face", "facenet", "reid")
"""mit_ade20k takes about 20 s an image on two cores."""


def _created(name: str, usual: bool) -> Any:
    """A parser or identity network on seeded weights; ``usual``: batch norms and the memory format
    as in the file."""
    import torch

    from sisbench import segmenters
    from sisbench.methods.seeded import seeded_state
    from sisbench.segmenters.identity import create_identity

    space = CASES[name]
    found: Any = segmenters.create(name, space) if space else create_identity(name)
    states = {m: seeded_state(shapes, 0) for m, shapes in found.official_shapes().items()}
    found.load_state(states)
    if usual:
        networks = {}
        for module, part in found.parts().items():
            part.load(states[module], name)
            networks[module] = part.network.eval()
        found.net = torch.nn.ModuleDict(networks).requires_grad_(False)
    return found


def compare_parsers(names: list[str], images: int, size: int, rounds: int, out: IO[str]) -> int:
    """Time both on ``images`` pictures, interleaved, on the CPU; print a Markdown table; 1 where
    they differ on more than one pixel of 10,000 or by more than 1e-4 of an embedding."""
    import torch

    stack = torch.from_numpy(pictures(images, size, 0)).permute(0, 3, 1, 2).contiguous()
    print(f"{images} pictures of {size} x {size}, {torch.get_num_threads()} threads\n", file=out)
    print("| network | usual, ms/image | here, ms/image | ratio | difference |", file=out)
    print("| --- | ---: | ---: | ---: | ---: |", file=out, flush=True)
    wrong = 0
    for name in names or DEFAULT:
        usual, here = _created(name, True), _created(name, False)
        calls = (usual.predict, here) if CASES[name] else (usual.embed, here.embed)
        with torch.inference_mode():
            found = interleaved(
                {"usual": partial(calls[0], stack), "here": partial(calls[1], stack)}, rounds
            )
        a, b = (found[k].result for k in ("usual", "here"))
        if CASES[name]:
            off = float((a != b).float().mean())
        else:
            off = float((a - b).norm(dim=1).max() / a.norm(dim=1).mean())
        wrong |= off > _MOST
        each = [1000 * found[k].median / images for k in ("usual", "here")]
        ratio = each[0] / each[1]
        print(f"| {name} | {each[0]:.0f} | {each[1]:.0f} | {ratio:.2f} | {off:.1e} |", file=out)
        out.flush()
    return int(wrong)
