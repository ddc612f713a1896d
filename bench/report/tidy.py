"""scores.csv and timing.csv: one row a score, and one row a method, data set and task."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Sequence

from sisbench.core.frames import score_frame
from sisbench.core.log import MetricFacts
from sisbench.report.page import recorded
from sisbench.report.paired import Comparison
from sisbench.report.quality import RunResults
from sisbench.report.render import defused
from sisbench.report.tables import one_line, scrub

COLUMNS = (
    *("run", "method", "dataset", "task", "protocol", "metric"),
    *("value", "se", "low", "high", "n", "p", "note"),
)


def scores_csv(results: RunResults, compared: Sequence[Comparison] = ()) -> str:
    """One row a score, as ``COLUMNS``: numbers as tables print them (percentages as such) in full
    precision, empty where there is none; ``note`` says why, or what to know of the score.

    Args:
        compared: to one method each; ``p`` is that of the first that has the score.
    """
    frame = score_frame(results.scores)
    scale = frame["metric"].map(lambda name: results.metrics.get(name, MetricFacts()).scale)
    for column in ("value", "se", "low", "high"):
        frame[column] *= scale.astype("float64")
    frame["run"] = results.manifest.name or results.root.name
    tested: dict[tuple[str, ...], tuple[float, str]] = {}
    for one in compared:
        for (method, metric), cell in one.cells.items():
            if cell.p is not None:
                key = (method, one.dataset, one.task, one.protocol, metric)
                tested.setdefault(key, (cell.p, f"p: against {one.versus}, paired"))
    places = zip(*(frame[c] for c in COLUMNS[1:6]), strict=True)
    known = [tested.get(place, (None, "")) for place in places]
    frame["p"] = [p for p, _ in known]
    said = zip(frame["reason"], frame["marks"], (note for _, note in known), strict=True)
    frame["note"] = [scrub("; ".join(filter(None, parts))) for parts in said]
    for column in (*COLUMNS[:6], "note"):
        frame[column] = [defused(one_line(str(text))) for text in frame[column]]
    return str(frame[list(COLUMNS)].to_csv(index=False, lineterminator="\n", float_format="%.10g"))


def timing_csv(results: RunResults) -> str:
    """One row a method, data set and task: images, median and mean seconds an image, seconds of
    encoding where these are counted apart, parameters, operations, peak memory in bytes (empty
    where not recorded). Kept apart from the tables, which
    are the same bytes for the same scores."""
    stream = io.StringIO()
    out = csv.writer(stream, lineterminator="\n")
    head = ["method", "dataset", "task", "images", "median_seconds", "mean_seconds"]
    out.writerow([*head, "encode_seconds", "parameters", "flops", "peak_memory"])
    for where, rows in results.records.items():
        taken = results.seconds[where]
        middle, mean = statistics.median(taken), statistics.fmean(taken)
        known = recorded(rows)
        encoding = known.pop("encode_seconds")
        costs = ["" if encoding is None else f"{encoding:.6g}"]
        costs += ["" if c is None else f"{c:.0f}" for c in known.values()]
        place = map(defused, where)
        out.writerow([*place, len(taken), f"{middle:.6g}", f"{mean:.6g}", *costs])
    return stream.getvalue()
