"""``sisbench init``: a commented configuration to start from, its data set found and counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sisbench.core.errors import UserError
from sisbench.core.yaml_file import parse_yaml
from sisbench.data.detect import Found, detect

_HEAD = """\
# Written by: sisbench init. Every key is described in docs/configuration.md.
#   sisbench doctor {file}     looks at everything that the run will need
#   sisbench run {file}        makes images, scores them, writes the report; run it again to resume
"""


@dataclass(frozen=True)
class Wanted:
    """What a configuration is to hold.

    Attributes:
        methods: registry name or ./file.py:Class -> weights ("" where they are not known yet).
        root: folder of the data set; None takes the bundled toyfaces.
        dataset: its name; "" finds it.
        tasks: names, in order.
        protocol, device: as in a configuration.
    """

    methods: Mapping[str, str]
    root: Path | None = None
    dataset: str = ""
    tasks: Sequence[str] = ("reconstruct", "transfer")
    protocol: str = "sisbench1"
    device: str = "auto"


def starter(wanted: Wanted, file: Path) -> tuple[str, list[Found]]:
    """(text of a configuration, the splits of the data set that were found).

    Raises:
        UserError: no data set in ``root``; no method.
    """
    if not wanted.methods:
        raise UserError("a run needs a method", "see: sisbench methods")
    found = [] if wanted.root is None else detect(wanted.root, wanted.dataset)
    lines = [_HEAD.format(file=file), f"protocol: {wanted.protocol}  # see: sisbench explain", ""]
    lines += ["methods:", *_methods(wanted.methods), ""]
    lines += ["datasets:", *_datasets(wanted.root, found), ""]
    lines += ["tasks:", *(f"  - {task}" for task in wanted.tasks), ""]
    lines += [
        "# metrics: [fid, miou]   # default: every metric that a task defines",
        "# parsers: {celebamask_hq: bisenet_face}   # default: the protocol's",
        "",
        "engine:",
        f"  device: {wanted.device}  # auto, cpu, cuda, cuda:1, mps; all for every GPU",
        "  batch_size: 4",
    ]
    text = "\n".join(lines) + "\n"
    parse_yaml(text, str(file))
    return text, found


def _methods(methods: Mapping[str, str]) -> list[str]:
    lines = []
    for name, weights in methods.items():
        lines.append(f"  - name: {name}")
        if weights:
            lines.append(f"    weights: {weights}")
        else:
            lines.append(
                "    weights: FILE_OR_FOLDER  # the official checkpoint; see the README of"
            )
            lines.append("    # the method's folder, and: sisbench weights list")
    return lines


def _datasets(root: Path | None, found: Sequence[Found]) -> list[str]:
    if root is None:
        return ["  - {name: toyfaces, split: test, size: 64, n: 100}  # bundled, drawn as needed"]
    first = found[0]
    lines = [f"  - name: {first.name}", f"    root: {root}"]
    if first.arguments["split"]:
        lines.append(f"    split: {first.arguments['split']}  # {first.count:,} items")
    lines.append(f"    size: [{first.size[0]}, {first.size[1]}]")
    lines.append("    # limit: 100   # only the first items, for a trial")
    lines += [f"    # {remark}" for remark in first.remarks]
    training = next((f for f in found if f.arguments["split"] == "train"), None)
    if training and training is not first:
        lines.append(
            f"    train: {{split: train}}  # {training.count:,} items, for scores against them"
        )
    return lines
