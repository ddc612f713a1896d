"""Reference statistics: mean and covariance of a real set, to and from other tools' files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sisbench.core.errors import UserError, did_you_mean
from sisbench.core.store import write_atomic
from sisbench.metrics.base import Context, ImageBatch
from sisbench.metrics.inception import PREPROCESS, Inception
from sisbench.metrics.reference import FrechetReference, check_features
from sisbench.score.given import GivenStatistics, extractor_name
from sisbench.share.archive import read_npz, write_npz

EXTRACTORS = tuple(f"inception-{p}" for p in PREPROCESS)
CLAIMS: Mapping[str, str] = {
    "pytorch-fid": "inception-pytorch_fid",
    "clean-fid": "inception-clean",
    "guided-diffusion": "inception-tf1",
    "torch-fidelity": "inception-tf1",
}
"""Kind of file -> the extractor that its tool uses, unless the user says otherwise."""
EXPORTS = ("sisbench", *CLAIMS)
_ABOUT = "about"
_IMAGES_A_TIME = 64


@dataclass(frozen=True)
class Statistics:
    """What a file holds of a real set.

    Attributes:
        mean: (d,); covariance: (d, d), divisor n - 1; both float64.
        n: images, or 0 where the file does not say; features: (n, d), or None.
    """

    mean: np.ndarray
    covariance: np.ndarray
    n: int = 0
    features: np.ndarray | None = None

    @classmethod
    def of(cls, features: np.ndarray) -> Statistics:
        """Of (n, d) features.

        Raises:
            UserError: no such matrix, or not finite.
        """
        features = check_features(features, "features")
        covariance = np.cov(features, rowvar=False, dtype=np.float64).reshape(
            features.shape[1], features.shape[1]
        )
        return cls(features.mean(0, dtype=np.float64), covariance, len(features), features)


def import_statistics(
    source: Path,
    to: Path,
    kind: str,
    *,
    extractor: str = "",
    name: str = "",
    split: str = "test",
    n: int = 0,
    keep_features: bool = True,
    context: Context | None = None,
) -> GivenStatistics:
    """Another tool's file as one of ours, which ``real_stats:`` and ``--real-stats`` take.

    Args:
        source: the file; ``to``: the .npz to write.
        kind: which tool's: a key of ``CLAIMS``.
        extractor: one of ``EXTRACTORS``, before what ``kind`` claims; a file does not say it.
        name: of the real set, for captions; default: the file's stem.
        split: of the real set: "test" or "train".
        n: its images, where the file does not say.
        context: device and weights of Inception, for a reference batch that holds images only.

    Raises:
        UserError: an unknown kind or extractor; a file with other keys, shapes or values that are
            not finite.
        Unavailable: images, and no Inception weights here.
    """
    _one_of("kind of file", kind, CLAIMS)
    claimed = extractor or CLAIMS[kind]
    _one_of("extractor", claimed, EXTRACTORS)
    _one_of("split", split, ("test", "train"))
    found = _read_torch(source) if kind == "torch-fidelity" else _read_arrays(source, kind)
    weights = ""
    if isinstance(found, np.ndarray):  # images
        asked = context or Context()
        maker = Inception(
            weights=asked.weights.get("inception"),
            preprocess=claimed.removeprefix("inception-"),
            device=asked.device,
        )
        found, weights = Statistics.of(_features(found, maker)), maker.sha256
    if n and found.n not in (0, n):
        raise UserError(f"{source} is of {found.n} images, not {n}", "leave the number out")
    about = {
        "name": name or source.stem,
        "source": kind,
        "sha256": hashlib.sha256(source.read_bytes()).hexdigest(),
        "extractor": claimed,
        "stated": "by the user" if extractor else f"by the kind of file, {kind}",
        "weights": weights,
        "split": split,
    }
    known = Statistics(found.mean, found.covariance, found.n or n, found.features)
    return write_statistics(to, known, about, keep_features)


def write_statistics(
    to: Path, found: Statistics, about: Mapping[str, str], keep_features: bool = True
) -> GivenStatistics:
    """``to``: mu and sigma as pytorch-fid reads them, n, what the file is about, and features."""
    if to.suffix != ".npz":
        raise UserError(f"statistics are written as .npz, got {to}", "name the file so")
    FrechetReference.of_moments(found.mean, found.covariance)  # nothing bad is written
    arrays = {"mu": found.mean.astype(np.float64), "sigma": found.covariance.astype(np.float64)}
    arrays |= {"n": np.array(found.n), _ABOUT: np.array(json.dumps(dict(about), sort_keys=True))}
    if keep_features and found.features is not None:
        arrays["features"] = found.features
    write_atomic(to, write_npz(arrays))
    return load_statistics(to)


def load_statistics(path: Path) -> GivenStatistics:
    """A file that ``sisbench stats`` wrote.

    Raises:
        UserError: a file of another kind, one that states no extractor, bad values.
    """
    stored = read_npz(path, str(path))
    about = _about(stored, path)
    try:
        if "features" in stored:
            columns = {"features": check_features(stored["features"], "features")}
        else:
            n = _count(stored.get("n", np.array(0)))
            reference = FrechetReference.of_moments(stored["mu"], stored["sigma"], n)
            columns = reference.rows()
    except KeyError as error:
        raise UserError(
            f"{path} has no {error}", "import it again: sisbench stats import"
        ) from error
    except UserError as error:
        raise UserError(f"{path}: {error.message}", error.hint) from error
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    said = (
        f"statistics '{about['name']}' ({about['source']}, {about['extractor']} as stated "
        f"{about['stated']}, sha256 {digest})"
    )
    weights = about.get("weights", "")
    return GivenStatistics(columns, about["split"], about["extractor"], weights, said, path)


def given_statistics(
    files: Mapping[str, Iterable[str]], asked: Sequence[str]
) -> dict[str, list[GivenStatistics]]:
    """By label of the data set, the statistics that stand for its real sets.

    Args:
        files: label -> files of the configuration.
        asked: ``FILE`` for every data set, or ``LABEL=FILE``; they go before the configuration's.

    Raises:
        UserError: an unreadable file; two for one data set and split.
    """
    chosen: dict[str, list[str]] = {label: [] for label in files}
    for text in asked:
        label, equals, file = text.partition("=")
        own = [label] if equals and label in files else list(files)
        for one in own:
            chosen[one].append(file if equals and label in files else text)
    loaded: dict[str, GivenStatistics] = {}
    found: dict[str, list[GivenStatistics]] = {}
    for label, configured in files.items():
        first = _by_split(label, chosen[label], loaded)
        found[label] = list((_by_split(label, configured, loaded) | first).values())
    return found


def _by_split(
    label: str, files: Iterable[str], loaded: dict[str, GivenStatistics]
) -> dict[str, GivenStatistics]:
    found: dict[str, GivenStatistics] = {}
    for file in files:
        if file not in loaded:
            loaded[file] = load_statistics(Path(file))
        one = loaded[file]
        if one.split in found:
            raise UserError(f"two statistics for the {one.split} photographs of {label}")
        found[one.split] = one
    return found


def export_statistics(
    to: Path, kind: str, found: Statistics, about: Mapping[str, str], keep_features: bool = True
) -> list[Path]:
    """Write (n, d) features' statistics as another tool reads them; the files that were written.

    Args:
        to: the file; for torch-fidelity its cache's folder, where ``about['name']`` names the
            input.
        kind: one of ``EXPORTS`` but "guided-diffusion", which takes images: ``export_images``.

    Raises:
        UserError: an unknown kind; an extractor that the tool does not use.
    """
    _one_of("kind of file", kind, EXPORTS)
    claimed = CLAIMS.get(kind, about["extractor"])
    if claimed != about["extractor"]:
        raise UserError(
            f"{kind} compares features of {claimed}, these are of {about['extractor']}",
            f"take a protocol whose 'fid' is {claimed.removeprefix('inception-')}",
        )
    if kind == "sisbench":
        write_statistics(to, found, about, keep_features)
        return [to]
    if kind == "torch-fidelity":
        return _write_torch(to, about["name"], found)
    write_atomic(to, write_npz({"mu": found.mean, "sigma": found.covariance}))
    return [to]


def export_images(to: Path, images: np.ndarray) -> list[Path]:
    """(n, H, W, 3) uint8 as the guided-diffusion evaluator's reference batch; it computes both of
    its statistics from them (its spatial one is of a layer that no score here uses)."""
    write_atomic(to, write_npz({"arr_0": images}))
    return [to]


def about_export(maker: Any, name: str, split: str, data: str) -> dict[str, str]:
    """What a file that was exported here is about."""
    return {
        "name": name,
        "source": "sisbench",
        "extractor": extractor_name(maker),
        "stated": "by the export",
        "weights": maker.sha256,
        "split": split,
        "data": data,
    }


# ---- reading other tools' files ---------------------------------------------------------------


def _read_arrays(source: Path, kind: str) -> Statistics | np.ndarray:
    """mu and sigma, features (clean-fid's ``feats``), or images (N, H, W, 3) uint8."""
    known = ("mu", "sigma", "feats", "n")
    stored = read_npz(source, str(source), only=known)
    if "mu" in stored or "sigma" in stored:
        absent = [key for key in ("mu", "sigma") if key not in stored]
        if absent:
            raise UserError(f"{source} has no '{absent[0]}'", "both mu and sigma are needed")
        return _moments(stored["mu"], stored["sigma"], _count(stored.get("n", 0)), source)
    if "feats" in stored and kind == "clean-fid":
        return Statistics.of(stored["feats"])
    if kind == "guided-diffusion":
        images = read_npz(source, str(source), only=("arr_0",)).get("arr_0")
        if images is not None:
            if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8:
                raise UserError(
                    f"{source}: arr_0 must be (N, H, W, 3) uint8, got {images.shape} {images.dtype}"
                )
            return images
    there = ", ".join(read_npz(source, str(source))) or "nothing"
    wanted = "mu and sigma" + (", or arr_0" if kind == "guided-diffusion" else "")
    raise UserError(f"{source} holds {there}; a {kind} file has {wanted}", "is --from right?")


def _moments(mean: Any, covariance: Any, n: int, source: Path) -> Statistics:
    try:
        FrechetReference.of_moments(mean, covariance)
    except UserError as error:
        raise UserError(f"{source}: {error.message}", error.hint) from error
    return Statistics(np.asarray(mean, np.float64), np.asarray(covariance, np.float64), n)


def _read_torch(source: Path) -> Statistics:
    """A file of torch-fidelity's cache: features (n, d), or {"mu", "sigma"}; no pickled code."""
    import torch

    if not source.is_file():
        raise UserError(f"no file {source}")
    core = np.core if np.lib.NumpyVersion(np.__version__) < "2.0.0" else np._core  # type: ignore[attr-defined]
    plain = [core.multiarray._reconstruct, core.multiarray.scalar, np.ndarray, np.dtype]
    plain += [type(np.dtype(t)) for t in (np.float32, np.float64)]
    try:
        with torch.serialization.safe_globals(plain), source.open("rb") as stream:
            raw = torch.load(stream, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen types here
        reason = (str(error).splitlines() or [""])[0]
        raise UserError(f"{source} cannot be read as plain arrays: {reason[:200]}") from error
    if isinstance(raw, Mapping) and {"mu", "sigma"} <= raw.keys():
        return _moments(np.asarray(raw["mu"]), np.asarray(raw["sigma"]), 0, source)
    if isinstance(raw, torch.Tensor):
        return Statistics.of(raw.numpy())
    raise UserError(
        f"{source} holds {type(raw).__name__}; torch-fidelity keeps features or mu and sigma",
        "take ...-features-2048.pt or ...-stat-fid-2048.pt",
    )


def _write_torch(folder: Path, name: str, found: Statistics) -> list[Path]:
    import io

    import torch

    written = []
    parts: dict[str, Any] = {"stat-fid-2048": {"mu": found.mean, "sigma": found.covariance}}
    if found.features is not None:
        parts["features-2048"] = torch.from_numpy(np.ascontiguousarray(found.features))
    for suffix, value in parts.items():
        buffer = io.BytesIO()
        torch.save(value, buffer)
        written.append(folder / f"{name}-inception-v3-compat-{suffix}.pt")
        write_atomic(written[-1], buffer.getvalue())
    return written


def _features(images: np.ndarray, maker: Any) -> np.ndarray:
    """(n, d) features of (n, H, W, 3) uint8."""
    import torch

    from sisbench.core.label_space import LabelSpace

    space, parts = LabelSpace("none", ("any",)), []
    for start in range(0, len(images), _IMAGES_A_TIME):
        part = torch.from_numpy(images[start : start + _IMAGES_A_TIME].copy()).movedim(-1, 1)
        ids = [str(start + k) for k in range(len(part))]
        absent = dict.fromkeys(("target", "label", "reference", "classes"))
        batch = ImageBatch(ids=ids, image=part.contiguous(), space=space, **absent)  # type: ignore[arg-type]
        parts.append(maker.rows(batch)["features"])
    return np.concatenate(parts) if parts else np.empty((0, 1))


def _about(stored: Mapping[str, np.ndarray], path: Path) -> dict[str, str]:
    keys = ("name", "source", "extractor", "stated", "split")
    try:
        about = json.loads(str(stored[_ABOUT]))
        found = {str(k): str(v) for k, v in about.items()}
        if all(found.get(key) for key in keys):
            return found
    except (KeyError, ValueError, AttributeError):
        pass
    raise UserError(
        f"{path} does not say what its statistics are of",
        f"sisbench stats import {path} --from KIND -o NEW.npz",
    )


def _count(stored: Any) -> int:
    value = np.asarray(stored)
    if value.ndim or value.dtype.kind not in "iu" or value < 0:
        raise UserError(f"n must be one number, got {value.dtype} {value.shape}")
    return int(value)


def _one_of(what: str, given: str, known: Iterable[str]) -> None:
    options = list(known)
    if given not in options:
        raise UserError(f"no {what} is called '{given}'", did_you_mean(given, options))
