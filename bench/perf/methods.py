"""Speed, memory and size of every method at its official size, beside its plain form."""

from __future__ import annotations

import importlib.util
import json
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from sisbench.core.errors import UserError

if TYPE_CHECKING:
    from sisbench.core.batch import Batch

_CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "SPADE, 19 classes": ("spade", "celebamask_hq", {}),
    "SPADE, ADE20K": ("spade", "ade20k", {}),
    "Pix2PixHD, 19 classes": ("pix2pixhd", "celebamask_hq", {}),
    "Pix2PixHD, ADE20K": ("pix2pixhd", "ade20k", {}),
    "CLADE, 19 classes": ("clade", "celebamask_hq", {}),
    "CLADE-ICPE, ADE20K": ("clade", "ade20k", {"use_vae": False, "add_dist": True}),
    "SEAN, 19 classes": ("sean", "celebamask_hq", {}),
    "SEAN-CLADE, 19 classes": ("sean-clade", "celebamask_hq", {}),
    "SEAN-CLADE, ADE20K": ("sean-clade", "ade20k", {}),
    "V-INADE, 19 classes": ("v-inade", "celebamask_hq", {}),
    "V-INADE, ADE20K": ("v-inade", "ade20k", {}),
    "SCAM, 19 classes": ("scam", "celebamask_hq", {}),
    "SCAM, ADE20K": ("scam", "ade20k", {}),
    "CA2-SIS, 19 classes": ("ca2sis", "celebamask_hq", {}),
    "OASIS, ADE20K": ("oasis", "ade20k", {}),
    "SC-GAN, 19 classes at 512": ("sc-gan", "celebamask_hq", {}),
    "SC-GAN, ADE20K": ("sc-gan", "ade20k", {}),
    "MaskGAN, 19 classes at 256": ("maskgan", "celebamask_hq", {"size": [256, 256]}),
    "MaskGAN, 19 classes at 512": ("maskgan", "celebamask_hq", {}),
    "SCA-DM, 4 guided steps": ("sca-dm", "celebamask_hq", {"steps": 4, "scale": 1.2}),
    "SDM, 4 guided steps": ("sdm", "celebamask_hq", {"steps": 4, "scale": 1.5}),
    "CoDiff, 4 steps": ("codiff", "celebamask_hq", {"steps": 4}),
    "ControlNet, ADE20K at 512, 2 steps": ("controlnet", "ade20k", {"steps": 2, "size": 512}),
    "SemanticStyleGAN, codes known": (  # the warm-up call inverts the photographs
        "semantic-stylegan",
        "celebamask_hq",
        {"steps": 1, "lambda_lpips": 0.0, "mean_latent_draws": 1},
    ),
}
_PLAIN = {
    "SPADE, 19 classes": 142.3,
    "SPADE, ADE20K": 182.3,
    "Pix2PixHD, 19 classes": 59.2,
    "CLADE-ICPE, ADE20K": 42.3,
    "SEAN, 19 classes": 342.4,
    "V-INADE, 19 classes": 59.5,
    "V-INADE, ADE20K": 80.6,
    "SCAM, 19 classes": 69.8,
    "SCAM, ADE20K": 263.0,
    "CA2-SIS, 19 classes": 128.4,
    "OASIS, ADE20K": 194.4,
    "SC-GAN, 19 classes at 512": 443.0,
    "SC-GAN, ADE20K": 75.6,
    "MaskGAN, 19 classes at 256": 35.4,
    "MaskGAN, 19 classes at 512": 141.7,
    "SDM, 4 guided steps": 4 * 3442.0,
    "CoDiff, 4 steps": 4 * 104.6 + 335.0,
    "SemanticStyleGAN, codes known": 68.6,
}
"""GMAC of an image in the network's plain form, layer by layer as its paper writes it, where that
was counted."""
MAPS = {"faces": 0, "simple": 2, "middle": 8, "busy": 32}
"""Label maps: toy faces (of 19 classes; blocks elsewhere), or so many blocks a side of random
classes."""
_HEADER = (
    *("method", "label map", "batch", "GMAC", "parameters (M)", "s/image", "images/s", "peak MB"),
    *("outside products", "plain GMAC", "plain s/image", "plain : ours", "difference"),
)
_PRODUCTS = ("mm", "conv", "dot_product", "linear", "flash", "fmha")
"""Parts of the names of operators and kernels that are products of matrices: convolutions and
attention too."""


@dataclass(frozen=True)
class Asked:
    """What one process measures.

    Attributes:
        case: a key of ``_CASES``.
        maps: a key of ``MAPS``.
        batch: batch size.
        rounds: timed calls; the best of the interleaved ones counts.
        device: torch device.
        plain: folder with ``plain_forms.py``, or None.
    """

    case: str
    maps: str
    batch: int
    rounds: int
    device: str
    plain: str | None


def measure(asked: Asked) -> dict[str, float]:
    """Seconds an image, peak memory, GMAC an image, parameters and the share of time outside of
    products of one reconstruction; the plain form's seconds and GMAC, in turns with ours.

    Parameters are untrained (seeded beside a plain form; they cost the same), the noise zero; one
    warm-up call. Peak memory is the device's on CUDA, on the CPU the peak resident set above that
    of the loaded method. Seconds are the processor's on one thread of a CPU, so that other work on
    the machine disturbs less, and the clock's elsewhere.

    Raises:
        UserError: the folder of plain forms has none.
    """
    import torch

    from sisbench.core.cost import operations, parameters
    from sisbench.core.noise import ZeroNoise

    method, plain = _loaded(asked)
    x = _batch(method, asked)
    run = method.reconstruct if "reconstruct" in method.can else method.sample
    calls: dict[str, Callable[[Batch], Any]] = {"ours": lambda b: run(b, ZeroNoise())}
    loaded = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    image = calls["ours"](x)  # warms up
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - loaded) / 1024
    if asked.device.startswith("cuda"):
        peak = torch.cuda.max_memory_allocated() / 2**20
    found = {"peak": peak, "parameters": (parameters(method) or 0.0) / 1e6}
    with torch.inference_mode():
        if plain is not None:
            calls["plain"] = plain
            found["difference"] = float((plain(x) - image).abs().max())
        seconds = _best(calls, x, asked)
        for key, call in calls.items():
            found[key] = seconds[key] / asked.batch
            found[f"{key} gmac"] = operations(partial(call, x[:1])) / 2e9
        found["outside"] = _outside_products(partial(calls["ours"], x), asked.device)
    return found


def _loaded(asked: Asked) -> tuple[Any, Callable[[Batch], Any] | None]:
    """The method on its device, and its plain form with the same weights, if there is one."""
    from sisbench import methods

    name, space, options = _CASES[asked.case]
    method: Any = methods.create(name, space, **options)
    form = _plain_form(asked, name)
    if form is None:
        method.after_load()
        return method.to(asked.device), None
    shapes = {m: k.official_shapes() for m, k in method.key_maps().items()}
    state = {m: method.seeded(m, s, 0) for m, s in shapes.items()}
    method.load_state(state).to(asked.device)
    moved = {m: {k: v.to(asked.device) for k, v in part.items()} for m, part in state.items()}
    return method, partial(form, method, moved)


def _plain_form(asked: Asked, name: str) -> Callable[..., Any] | None:
    """The plain form of a method in the folder that was given, if there is one."""
    if asked.plain is None:
        return None
    path = Path(asked.plain) / "plain_forms.py"
    if not path.is_file():
        raise UserError(f"no plain forms at {path}", "give the folder tests of a source checkout")
    sys.path.insert(0, str(path.parent))  # it imports its neighbours
    spec = importlib.util.spec_from_file_location("plain_forms", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    forms: dict[str, Callable[..., Any]] = module.FORMS
    return forms.get(name)


def _batch(method: Any, asked: Asked) -> Batch:
    """Pictures with the label maps that were asked for."""
    import torch

    from sisbench.diagnose.conformance import check_batch

    x = check_batch(method.space, tuple(method.size), asked.batch)
    if MAPS[asked.maps]:
        cells = torch.randint(
            0,
            len(method.space),
            (asked.batch, MAPS[asked.maps], MAPS[asked.maps]),
            generator=torch.Generator().manual_seed(0),
        )
        rows, columns = (torch.arange(n) * MAPS[asked.maps] // n for n in method.size)
        x.label.copy_(cells[:, rows[:, None], columns])
    return x.to(asked.device)


def _best(calls: dict[str, Callable[[Batch], Any]], x: Batch, asked: Asked) -> dict[str, float]:
    """The least seconds of each call over the rounds, in turns."""
    import torch

    cuda = asked.device.startswith("cuda")
    alone = asked.device == "cpu" and torch.get_num_threads() == 1
    clock = time.process_time if alone else time.perf_counter
    best = dict.fromkeys(calls, float("inf"))
    for _ in range(asked.rounds):
        for key, call in calls.items():
            start = clock()
            call(x)
            if cuda:
                torch.cuda.synchronize()
            best[key] = min(best[key], clock() - start)
    return best


def _outside_products(call: Callable[[], Any], device: str) -> float:
    """Share of the operators' time that is not spent in products."""
    from torch.profiler import ProfilerActivity, profile

    cuda = device.startswith("cuda")
    with profile(activities=[ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU]) as run:
        call()
    spent = {
        e.key: e.self_device_time_total if cuda else e.self_cpu_time_total
        for e in run.key_averages()
    }
    within = sum(t for key, t in spent.items() if any(part in key for part in _PRODUCTS))
    return 1 - within / max(sum(spent.values()), 1e-9)


def compare_methods(
    cases: list[str],
    maps: list[str],
    batches: list[int],
    rounds: int,
    device: str,
    plain: str | None,
    out: IO[str],
) -> int:
    """Measure each case in a process of its own and print a Markdown table; 1 if a case fails."""
    import torch

    chip = torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.processor()
    threads = torch.get_num_threads()
    chosen = [c for c in _CASES if not cases or any(w.lower() in c.lower() for w in cases)]
    print(f"{chip or platform.machine()}, {threads} threads, torch {torch.__version__}\n", file=out)
    print("| " + " | ".join(_HEADER) + " |", file=out)
    print("| --- | --- |" + " ---: |" * (len(_HEADER) - 2), file=out, flush=True)
    failed = 0
    for case in chosen:
        for kind in maps:
            for batch in batches:
                found = _child(Asked(case, kind, batch, rounds, device, plain))
                failed |= not found
                cells = _cells(case, found) if found else ["failed"] * (len(_HEADER) - 3)
                row = [case, kind, str(batch), *cells]
                print("| " + " | ".join(row) + " |", file=out, flush=True)
    return int(failed)


def _cells(case: str, f: dict[str, float]) -> list[str]:
    """The numbers of a row; the plain form's operations are known for more than are measured."""
    cells = [
        *(f"{f['ours gmac']:.1f}", f"{f['parameters']:.1f}", f"{f['ours']:.3f}"),
        *(f"{1 / f['ours']:.2f}", f"{f['peak']:.0f}", f"{100 * f['outside']:.0f} %"),
    ]
    if "plain" not in f:
        return [*cells, f"{_PLAIN[case]:.1f}" if case in _PLAIN else "-", *["-"] * 3]
    return [
        *(*cells, f"{f['plain gmac']:.1f}", f"{f['plain']:.3f}"),
        *(f"{f['plain'] / f['ours']:.2f}", f"{f['difference']:.1e}"),
    ]


def _child(asked: Asked) -> dict[str, float]:
    """``measure`` in a fresh process, so that peaks do not mix; {} and its error on failure."""
    code = (
        "import json, sys; from sisbench.perf.methods import Asked, measure;"
        f"print('RESULT' + json.dumps(measure(Asked(**{asdict(asked)!r}))))"
    )
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True
    )
    for line in run.stdout.splitlines():
        if line.startswith("RESULT"):
            found: dict[str, float] = json.loads(line.removeprefix("RESULT"))
            return found
    print(run.stderr.strip().splitlines()[-1:], file=sys.stderr)
    return {}
