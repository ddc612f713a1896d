"""Speed, memory and size of every method at its official size."""

from __future__ import annotations

import json
import platform
import resource
import subprocess
import sys
import time
from typing import IO, Any

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
_HEADER = ("method", "GMAC", "in its plain form", "parameters (M)")
_COLUMNS = ("s/image", "images/s", "peak MB")


def measure(case: str, batch: int, rounds: int, device: str) -> dict[str, float]:
    """Median seconds an image, peak memory, GMAC an image and parameters of one reconstruction.

    Untrained parameters (they cost the same); noise zero; one warm-up call. Peak memory is the
    device's on CUDA, on the CPU the peak resident set above that of the loaded method.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from sisbench import methods
    from sisbench.core.noise import ZeroNoise
    from sisbench.diagnose.conformance import check_batch

    name, space, options = _CASES[case]
    method: Any = methods.create(name, space, **options)
    method.after_load()
    method.to(device)
    x = check_batch(method.space, tuple(method.size), batch).to(device)
    call = method.reconstruct if "reconstruct" in method.can else method.sample
    loaded = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = []
    for k in range(rounds + 1):
        start = time.perf_counter()
        call(x, ZeroNoise())
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        if k:  # the first call warms up
            seconds.append(time.perf_counter() - start)
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - loaded) / 1024
    if device.startswith("cuda"):
        peak = torch.cuda.max_memory_allocated() / 2**20
    with FlopCounterMode(display=False) as counter:
        call(x[:1], ZeroNoise())
    return {
        "seconds": sorted(seconds)[len(seconds) // 2] / batch,
        "peak": peak,
        "gmac": counter.get_total_flops() / 2e9,
        "parameters": sum(p.numel() for p in method.net.parameters()) / 1e6,
    }


def compare_methods(
    cases: list[str], batches: list[int], rounds: int, device: str, out: IO[str]
) -> int:
    """Measure each case in a process of its own and print a Markdown table; 1 if a case fails."""
    import torch

    chip = torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.processor()
    threads = torch.get_num_threads()
    chosen = [c for c in _CASES if not cases or any(w.lower() in c.lower() for w in cases)]
    print(f"{chip or platform.machine()}, {threads} threads, torch {torch.__version__}\n", file=out)
    heads = [*_HEADER, *(f"{c}, batch {b}" for b in batches for c in _COLUMNS)]
    print("| " + " | ".join(heads) + " |", file=out)
    print("| --- |" + " ---: |" * (len(heads) - 1), file=out, flush=True)
    failed = 0
    for case in chosen:
        found = [_child(case, b, rounds, device) for b in batches]
        if not all(found):
            failed = 1
            print(f"| {case} |" + " failed |" * (len(heads) - 1), file=out, flush=True)
            continue
        plain = f"{_PLAIN[case]:.1f}" if case in _PLAIN else "-"
        cells = [f"{found[0]['gmac']:.1f}", plain, f"{found[0]['parameters']:.1f}"]
        for f in found:
            cells += [f"{f['seconds']:.3f}", f"{1 / f['seconds']:.2f}", f"{f['peak']:.0f}"]
        print("| " + " | ".join([case, *cells]) + " |", file=out, flush=True)
    return failed


def _child(case: str, batch: int, rounds: int, device: str) -> dict[str, float]:
    """``measure`` in a fresh process, so that peaks do not mix; {} and its error on failure."""
    code = (
        "import json, sys; from sisbench.perf.methods import measure;"
        f"print('RESULT' + json.dumps(measure({case!r}, {batch}, {rounds}, {device!r})))"
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
