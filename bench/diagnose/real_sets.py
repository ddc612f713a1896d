"""Statistics in the place of photographs: whether each file reads, and what it will serve for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sisbench.config import RunConfig
from sisbench.core import weights
from sisbench.core.errors import UserError
from sisbench.core.file_hash import sha256_of
from sisbench.diagnose.finding import Finding
from sisbench.metrics.inception import Inception
from sisbench.run.plan import run_protocols
from sisbench.score.given import GivenStatistics, named_extractor
from sisbench.share.stats import given_statistics, load_statistics


def statistics_of(config: RunConfig) -> Iterator[Finding]:
    """Every file of ``real_stats``, each on its own, then whether two are for one real set."""
    protocols = {p.id: named_extractor("inception", p.fid, p.dtype) for p in run_protocols(config)}
    for d in config.datasets:
        readable = True
        for file in d.real_stats:
            label = f"statistics {file} of {d.shown}"
            try:
                given = load_statistics(Path(file))
            except UserError as error:
                readable = False
                yield Finding("fail", f"{label}: {error.message}", error.hint)
                continue
            yield Finding("ok", f"{label}: {_said(given)}")
            yield from _of_other_extractors(label, given, protocols)
            yield from _of_other_weights(label, given, config)
        try:
            if readable:
                given_statistics({d.shown: d.real_stats}, ())
        except UserError as error:
            yield Finding("fail", error.message, error.hint or "leave one of them out")


def _said(given: GivenStatistics) -> str:
    n = len(given.columns["features"]) if "features" in given.columns else int(given.columns["n"])
    images = f"{n:,} images" if n else "of an unstated number of images"
    lack = "" if "features" in given.columns else "; mean and covariance alone, so no KID"
    return f"{given.split} photographs, {images}, {given.extractor}{lack}"


def _of_other_extractors(
    label: str, given: GivenStatistics, protocols: dict[str, str]
) -> Iterator[Finding]:
    for protocol, wanted in protocols.items():
        if given.extractor != wanted:
            yield Finding(
                "warn",
                f"{label}: {given.extractor}, and {protocol} takes {wanted}: no FID or KID there",
                "import statistics of that extractor, or run a protocol with this one",
            )


def _of_other_weights(label: str, given: GivenStatistics, config: RunConfig) -> Iterator[Finding]:
    try:
        here = sha256_of(weights.resolve(Inception.weights, config.weights.get(Inception.weights)))
    except UserError:  # absent or wrong: another finding says so
        return
    if given.sha256 and given.sha256 != here:
        yield Finding(
            "warn",
            f"{label}: made with weights {given.sha256[:12]}, here are {here[:12]}: no FID or KID",
            "export them again with the weights that are here",
        )
