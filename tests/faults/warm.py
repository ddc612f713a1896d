"""What the process imports and does once from which the fault tests fork their commands: third
parties' first times (imports, fonts, meta tensors) are no part of what is tested."""

from __future__ import annotations

import contextlib
import gc
import importlib
import io
import pkgutil

MODULES = [
    *("torch", "torchvision", "scipy.linalg", "scipy.stats", "pandas", "pandas.io.formats.csvs"),
    *("pyarrow.parquet", "pyarrow.dataset", "pyarrow.csv", "pyarrow.compute", "safetensors.torch"),
    *("matplotlib.backends.backend_agg", "matplotlib.backends.backend_svg", "matplotlib.figure"),
    *("jinja2", "lightning_fabric", "rich.prompt", "sqlite3", "encodings.unicode_escape"),
    *("encodings.cp437", "encodings.utf_8_sig", "PIL.PngImagePlugin", "PIL.JpegImagePlugin"),
    *("PIL.BmpImagePlugin", "PIL.GifImagePlugin", "PIL.PpmImagePlugin"),
]


def warm() -> None:
    """Import everything and draw one figure."""
    for name in MODULES:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    for name in ("sisbench", "sisbench.metrics", "sisbench.segmenters"):
        package = importlib.import_module(name)
        for found in pkgutil.walk_packages(package.__path__, f"{name}."):
            with contextlib.suppress(ImportError):  # of an extra that is not installed
                importlib.import_module(found.name)
    importlib.import_module("sisbench.methods.editor")
    import torch
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with torch.device("meta"):
        torch.nn.Conv2d(1, 1, 1)
    figure = Figure(layout="constrained")
    figure.subplots().set_title("ä")
    FigureCanvasAgg(figure)
    for kind in ("png", "svg"):
        figure.savefig(io.BytesIO(), format=kind)
    gc.collect()
    gc.freeze()  # a fork does not copy what is there


warm()
