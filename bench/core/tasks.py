"""The tasks that a method can be asked for."""

from __future__ import annotations

from typing import Literal, get_args

Task = Literal[
    "reconstruct",
    "transfer",
    "class_transfer",
    "shape_transfer",
    "subject_transfer",
    "sample",
    "mixed",
    "interpolate_style",
    "interpolate_shape",
]


TASKS: tuple[str, ...] = get_args(Task)
"""What a method can be asked for (``sisbench.run.tasks`` says what each makes)."""
