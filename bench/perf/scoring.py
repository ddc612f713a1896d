"""One-pass scoring with cached real rows against torch-fidelity, lpips and scikit-image."""

from __future__ import annotations

import contextlib
import io
import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
from PIL import Image

from sisbench import metrics
from sisbench.core.devices import exact_arithmetic
from sisbench.core.label_space import LabelSpace
from sisbench.metrics.base import Context, ImageBatch
from sisbench.perf.micro import micro_comparisons
from sisbench.perf.samples import degraded, pictures, seeded_weights, write_folder
from sisbench.perf.timing import Timed, has_bf16, interleaved

SCORES = ("fid", "kid", "lpips", "ssim", "psnr")
TOLERANCE = 1e-4
_BATCH = 16
_SPACE = LabelSpace("none", ("all",))


@dataclass(frozen=True)
class Wanted:
    """What to compare: ``images`` pairs of ``size`` x ``size``, in so many rounds; bf16 and
    torch.compile besides; on a device; all parts, the pipeline or its single steps (micro)."""

    images: int
    size: int = 256
    rounds: int = 3
    bf16: bool = False
    compile: bool = False
    device: str = "cpu"
    part: str = "all"


@dataclass(frozen=True)
class Job:
    """Two folders of PNG files that pair by name, the weights, and the device of every network."""

    fakes: list[Path]
    reals: list[Path]
    inception: Path
    alex: Path
    folder: Path
    device: str

    @property
    def subset(self) -> int:
        return len(self.fakes) // 2


def read(paths: list[Path]) -> torch.Tensor:
    """(B, 3, H, W) uint8."""
    arrays = [np.asarray(Image.open(path).convert("RGB")) for path in paths]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()


def incumbent(job: Job, cached: bool) -> Callable[[], dict[str, float]]:
    """What a researcher runs: torch-fidelity on two folders, lpips and scikit-image by pairs.

    Args:
        cached: give torch-fidelity a cache name for the real set, warm from the first round on.
    """
    import lpips
    import torch_fidelity
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity

    with contextlib.redirect_stdout(io.StringIO()):
        network = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False).eval()
    state = torch.load(job.alex, weights_only=True)
    names = {k: "features." + k.split(".", 1)[1] for k in network.net.state_dict()}
    network.net.load_state_dict({k: state[v] for k, v in names.items()})
    network.to(job.device)
    ssim_options: dict[str, Any] = {"channel_axis": 2, "data_range": 255, "gaussian_weights": True}
    names_of_cache = {"input2_cache_name": "real"} if cached else {}

    def run() -> dict[str, float]:
        found = torch_fidelity.calculate_metrics(
            input1=str(job.fakes[0].parent),
            input2=str(job.reals[0].parent),
            fid=True,
            kid=True,
            kid_subset_size=job.subset,
            batch_size=_BATCH,
            cuda=job.device != "cpu",
            verbose=False,
            save_cpu_ram=True,  # decode in this process: no time is lost to workers
            cache=cached,
            cache_root=str(job.folder / "cache"),
            feature_extractor_weights_path=str(job.inception),
            **names_of_cache,
        )
        pairs: dict[str, list[float]] = {"lpips": [], "ssim": [], "psnr": []}
        for fake, real in zip(job.fakes, job.reals, strict=True):
            with torch.no_grad():
                x, y = (
                    lpips.im2tensor(lpips.load_image(str(p))).to(job.device) for p in (fake, real)
                )
                pairs["lpips"].append(float(network(x, y)))
            a, b = (np.asarray(Image.open(p).convert("RGB")) for p in (fake, real))
            similarity = structural_similarity(a, b, use_sample_covariance=False, **ssim_options)
            pairs["ssim"].append(float(similarity))
            pairs["psnr"].append(float(peak_signal_noise_ratio(b, a, data_range=255)))
        return {
            "fid": found["frechet_inception_distance"],
            "kid": found["kernel_inception_distance_mean"],
            **{name: float(np.mean(values)) for name, values in pairs.items()},
        }

    return run


def one_pass(job: Job, dtype: str, compile: bool = False) -> Callable[[], dict[str, float]]:
    """sisbench: each file decoded once, every row maker at once, real features from the cache."""
    weights = {"inception": job.inception, "lpips-alex": job.alex}
    context = Context(dtype=dtype, device=job.device, compile=compile, weights=weights)
    names = ("inception", "lpips-alex", "ssim", "psnr")
    makers = {
        name: metrics.create_maker(name, context if name in weights else None) for name in names
    }
    real = {"features": makers["inception"].features(read(job.reals))}  # type: ignore[attr-defined]
    reduced = [metrics.create(name) for name in SCORES]

    def run() -> dict[str, float]:
        parts: dict[str, list[dict[str, np.ndarray]]] = {name: [] for name in makers}
        for start in range(0, len(job.fakes), _BATCH):
            part = slice(start, start + _BATCH)
            image, target = read(job.fakes[part]), read(job.reals[part])
            label = torch.zeros(len(image), *image.shape[2:], dtype=torch.int64)
            ids = [path.stem for path in job.fakes[part]]
            batch = ImageBatch(ids, image, target, label, None, None, _SPACE)
            for name, maker in makers.items():
                parts[name].append(maker.rows(batch))
        rows = {
            name: {c: np.concatenate([p[c] for p in found]) for c in found[0]}
            for name, found in parts.items()
        }
        return {
            m.name: m.reduce(rows[str(m.maker)], real if m.real else None).value for m in reduced
        }

    return run


def compare_scoring(wanted: Wanted, out: TextIO) -> int:
    """Print ratios and differences; 1 where a float32 score differs by more than 1e-4."""
    torch.set_num_threads(1)
    exact_arithmetic()
    low = wanted.bf16 or wanted.device != "cpu" or has_bf16()
    if not low:
        print("bf16 left out: this CPU has no bf16 instructions (--bf16 runs it anyway)", file=out)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        inception, alex = seeded_weights(folder)
        good = True
        if wanted.part in ("all", "pipeline"):
            reals = pictures(wanted.images, wanted.size, 0)
            job = Job(
                write_folder(degraded(reals, 1), folder / "fake"),
                write_folder(reals, folder / "real"),
                inception,
                alex,
                folder,
                wanted.device,
            )
            good = _pipeline(job, wanted, low, out)
        if wanted.part in ("all", "micro"):
            good &= micro_comparisons(alex, wanted.size, wanted.rounds, out)
    return 0 if good else 1


def _pipeline(job: Job, wanted: Wanted, low: bool, out: TextIO) -> bool:
    n = len(job.fakes)
    candidates = {
        "usual tools": incumbent(job, cached=False),
        "usual, real set cached": incumbent(job, cached=True),
        "sisbench float32": one_pass(job, "float32"),
    }
    if wanted.compile:
        candidates["float32, compiled"] = one_pass(job, "float32", compile=True)
    if low:
        candidates["sisbench bf16"] = one_pass(job, "bf16")
    if low and wanted.compile:
        candidates["bf16, compiled"] = one_pass(job, "bf16", compile=True)
    timed = interleaved(candidates, wanted.rounds, wanted.device)
    base, ours = timed["usual tools"], timed["sisbench float32"]
    clock = "core-ms" if job.device == "cpu" else f"wall ms ({job.device})"
    print(f"\nScoring {n} pairs: {clock} a pair, ratio, scores", file=out)
    print(f"{'':24}{'ms':>8}{'ratio':>8}  " + "".join(f"{f:>13}" for f in SCORES), file=out)
    for name, one in timed.items():
        _line(name, one, base, n, out)
    subsets = _kid_as_torch_fidelity(job)
    differences = {f: abs(ours.result[f] / base.result[f] - 1) for f in SCORES if f != "kid"} | {
        "kid (100 subsets, their seed)": abs(subsets - base.result["kid"])
    }
    for name, value in differences.items():
        kind = "absolute" if name.startswith("kid") else "relative"
        print(f"difference of {name}: {value:.2e} {kind}", file=out)
    return all(math.isfinite(v) and v <= TOLERANCE for v in differences.values())


def _line(name: str, one: Timed, base: Timed, n: int, out: TextIO) -> None:
    scores = "".join(f"{one.result[f]:13.8f}" for f in SCORES)
    ratio = base.median / one.median
    print(f"{name:24}{1000 * one.median / n:8.1f}{ratio:8.2f}  {scores}", file=out)


def _kid_as_torch_fidelity(job: Job) -> float:
    """KID over the same 100 subsets, from our features: untimed, to compare the score."""
    from sisbench.metrics.inception import Inception
    from sisbench.metrics.kid import kid_subsets

    maker = Inception(job.inception)
    fakes, reals = maker.features(read(job.fakes)), maker.features(read(job.reals))
    return kid_subsets(fakes, reals, 100, job.subset)[0]
