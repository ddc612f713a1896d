"""One bad method, data set or weights file costs itself and nothing else, and is known early."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image, ImageOps
from rich.console import Console

from sisbench import data, methods
from sisbench.config import RunConfig
from sisbench.core.errors import UserError
from sisbench.core.progress import Progress
from sisbench.core.schema import validated
from sisbench.core.store import CellFolder, RunStore
from sisbench.methods.loadable import save_weights
from sisbench.pipeline import score_run
from sisbench.run import preflight, runner
from sisbench.run.engines.local import make_share
from sisbench.run.plan import make_plan

QUIET = Progress(quiet=True)


def config(out: Path, methods: list[Any], **changes: Any) -> RunConfig:
    raw = {
        "name": "test",
        "output": str(out),
        "methods": methods,
        "datasets": [{"name": "toyfaces", "size": 32, "n": 2}],
        "metrics": ["psnr"],
        "engine": {"device": "cpu", "batch_size": 2, "workers": 0},
    }
    return validated(RunConfig, {**raw, **changes}, "test")


def made(run: RunConfig) -> dict[str, tuple[str, str]]:
    """Method label -> (status, reason), once the run has generated."""
    runner.generate(make_plan(run), QUIET)
    cells = RunStore(run.folder).cells()
    return {c.entry.method.label: (c.entry.status, c.entry.reason) for c in cells}


@pytest.mark.parametrize(
    ("place", "raised"),
    [
        ("return nn.Identity()", "raise KeyError('hair')"),
        ("return nn.Identity()", "raise MemoryError"),
        ("flat = one_hot", "assert False; flat = one_hot"),
        ("flat = one_hot", "[][3]; flat = one_hot"),
        ("size = (32, 32)", "size = (32, 32)\n    def __init__(self): raise TypeError('no')"),
        ("size = (32, 32)", "size = (32, 32)\n    def describe(self): return {'x': object()}"),
        ("size = (32, 32)", "size = (32, 32)\n    def load(self, *a): raise OSError(2, 'gone')"),
        ("size = (32, 32)", "size = (32, 32)\n    def cannot(self): return 1 / 0"),
    ],
)
def test_whatever_a_method_raises_costs_itself(
    place: str, raised: str, method_file: str, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.py"
    text = Path(method_file.rpartition(":")[0]).read_text()
    assert place in text
    bad.write_text(text.replace(place, raised))
    both = [{"name": f"{bad}:MeanColour", "label": "bad"}, {"name": method_file, "label": "good"}]
    found = made(config(tmp_path / "run", both))
    assert found["good"] == ("done", "")
    status, reason = found["bad"]
    assert status == "failed"
    assert "Error" in reason
    if "describe" not in raised:
        line = bad.read_text()[: bad.read_text().index(raised.split("\n")[-1].strip())].count("\n")
        assert f"(bad.py, line {line + 1})" in reason


def test_a_data_set_that_cannot_be_opened_costs_its_cells(method_file: str, tmp_path: Path) -> None:
    data = [{"name": "toyfaces", "size": 32, "n": 2}, {"name": "celebamask_hq", "root": "nowhere"}]
    run = config(tmp_path / "run", [method_file], datasets=data)
    runner.generate(make_plan(run), QUIET)
    good, bad = (c.entry for c in RunStore(run.folder).cells())
    assert (good.status, bad.status) == ("done", "failed")
    assert "data set celebamask_hq" in bad.reason
    score_run(run.folder, None, [], [], QUIET)
    scores = {s.dataset: s for s in RunStore(run.folder).scores()[0] if s.metric == "psnr"}
    assert scores["toyfaces"].value is not None
    assert scores["celebamask_hq"].reason
    with pytest.raises(UserError, match="nowhere"):
        make_plan(config(tmp_path / "run", [method_file], datasets=data[1:]))


def test_faults_are_known_before_anything_is_loaded(
    method_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "page.pth"
    page.write_text("<!doctype html><html>login</html>")
    empty = tmp_path / "empty"
    empty.mkdir()
    foreign = tmp_path / "foreign.pth"  # no header says of which method it is
    torch.save({"state_dict": {"up_0.mlp_gamma.weight": torch.zeros(4, 4)}}, foreign)
    own = tmp_path / "own.safetensors"
    tiny = {"ngf": 2, "max_channels": 8, "nhidden": 4, "crop_size": 32, "use_vae": False}
    spade = methods.create("spade", "celebamask_hq", **tiny)
    del spade.net.netG.fc
    save_weights(spade, own, {})
    faults = {
        "gone": ("spade", "nope.pth", "no weights at nope.pth"),
        "page": ("spade", str(page), "a web page"),
        "folder": ("spade", str(empty), "holds no weights file"),
        "other": ("spade", "bundled:toy-sean", "weights of 'sean', not of 'spade'"),
        "size": ("sean", "bundled:toy-sean", "renders 64x64, the data set is opened at 32x32"),
        "none": ("spade", None, "needs weights"),
        "foreign": ("spade", str(foreign), "does not fit"),
        "cut": ("spade", str(own), "does not fit"),
    }
    entries = [{"name": n, "label": k, "weights": w} for k, (n, w, _) in faults.items()]
    wide = tmp_path / "wide.py"
    text = Path(method_file.rpartition(":")[0]).read_text()
    wide.write_text(text.replace("(32, 32)", "(48, 32)"))
    entries.append({"name": f"{wide}:MeanColour", "label": "own"})

    def loaded(*_: object) -> None:
        raise AssertionError("a network was loaded")

    monkeypatch.setattr(runner, "load_method", loaded)
    found = made(config(tmp_path / "run", entries))
    for label, (_, _, message) in faults.items():
        assert found[label][0] == "failed"
        assert message in found[label][1]
    assert "renders 48x32" in found["own"][1]


def test_a_disk_that_is_clearly_too_full_is_said_before(
    method_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(config(tmp_path / "run", [method_file]))
    needed = preflight.bytes_needed(plan, plan.cells)
    assert needed == 2 * (32 * 32 * 2 + 16_384)
    for part, refused in ((0.4, True), (0.9, False)):
        free = SimpleNamespace(free=int(needed * part))
        monkeypatch.setattr(preflight.shutil, "disk_usage", lambda _, free=free: free)
        if refused:
            with pytest.raises(UserError, match=r"36\.0 KiB"):
                runner.generate(plan, QUIET)
        else:
            runner.generate(plan, QUIET)
    assert runner.generate(plan, QUIET).images == 0


class Told(Progress):
    """Keeps what is said."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def with_line(method_file: str, line: str) -> dict[str, str]:
    """The tiny method, "bad", with a line more in its render."""
    path = Path(method_file.rpartition(":")[0])
    bad = path.with_name("bad.py")
    bad.write_text(path.read_text().replace("flat = one_hot", f"{line}\n        flat = one_hot"))
    return {"name": f"{bad}:MeanColour", "label": "bad"}


def test_a_method_of_which_every_image_fails_is_known_before_the_long_work(
    method_file: str, tmp_path: Path
) -> None:
    bad = with_line(method_file, "raise KeyError('odd')")
    data = [{"name": "toyfaces", "size": 32, "n": 8}]
    good = {"name": method_file, "label": "good"}
    run = config(tmp_path / "run", [good, bad], datasets=data)
    told = Told()
    runner.generate(make_plan(run), told)
    cells = {c.entry.method.label: c for c in RunStore(run.folder).cells()}
    assert cells["good"].entry.status == "done"
    assert cells["bad"].entry.status == "failed"
    reason = "5 of 5 trial images failed, 3 more were not tried: KeyError: 'odd' (bad.py, line"
    assert cells["bad"].entry.reason.startswith(reason)
    assert [row.id for row in cells["bad"].item_rows()] == [
        f"test-0000{k}" for k in (0, 1, 3, 4, 6)
    ]
    known = next(k for k, line in enumerate(told.lines) if "no images of bad (1 cell" in line)
    assert told.lines.index("loading good") > known
    strict = make_plan(config(tmp_path / "strict", [good, bad], datasets=data))
    with pytest.raises(UserError, match="trial images failed"):
        runner.generate(strict, QUIET, strict=True)
    assert len(list((tmp_path / "strict").rglob("*.png"))) == 1, "the trial of the good one alone"
    assert made(run)["bad"][1].startswith(reason), "tried again, no more than before"
    assert len(cells["bad"].item_rows()) == 5


@pytest.mark.parametrize("label", ["0", "5"])
def test_images_that_fail_cost_themselves(label: str, method_file: str, tmp_path: Path) -> None:
    """One good image among the first is enough to go on with all."""
    line = f"if style.codes.shape[0] and layout_id(layout) == {label}: raise KeyError('odd')"
    bad = with_line(method_file, line)
    path = Path(bad["name"].rpartition(":")[0])
    text = "SEEN = {}\n\n\ndef layout_id(layout):\n"
    text += "    return SEEN.setdefault(int(layout.label.sum()), len(SEEN))\n\n\n"
    path.write_text(path.read_text().replace("class MeanColour", text + "class MeanColour"))
    run = config(tmp_path / "run", [bad], datasets=[{"name": "toyfaces", "size": 32, "n": 8}])
    told = Told()
    runner.generate(make_plan(run), told)
    (cell,) = RunStore(run.folder).cells()
    assert cell.entry.status == "partial"
    assert len(cell.item_rows()) == 8
    assert cell.entry.reason.startswith("1 of 8 items failed: KeyError")


def test_one_process_a_device_gives_up_alike(method_file: str, tmp_path: Path) -> None:
    bad = with_line(method_file, "raise KeyError('odd')")
    data = [{"name": "toyfaces", "size": 32, "n": 16}]
    engine = {"device": "cpu", "batch_size": 2, "workers": 0}
    plan = make_plan(config(tmp_path / "run", [bad], datasets=data, engine=engine))
    make_share(plan, "cpu", QUIET, (0, 2))
    (cell,) = plan.cells
    assert len(CellFolder(tmp_path / "run" / cell.folder).item_rows()) == 5


def test_an_image_that_the_run_did_not_draw_is_named(method_file: str, tmp_path: Path) -> None:
    """A picture that somebody put in its place is scored as it is, and the score says so."""
    folder = tmp_path / "run"
    made(config(folder, [method_file]))
    path = sorted(folder.rglob("images/*.png"))[0]
    with Image.open(path) as picture:
        ImageOps.invert(picture.convert("RGB")).save(path)
    stream = io.StringIO()
    score_run(folder, None, [], [], Progress(Console(file=stream, width=400)))
    assert "images are not the files that the run drew" in stream.getvalue()
    assert path.stem in stream.getvalue()
    marks = [m for s in RunStore(folder).scores()[0] if s.metric == "psnr" for m in s.marks]
    assert any("not those that the run drew" in m for m in marks), marks
    made(config(folder, [method_file]))
    score_run(folder, None, [], [], QUIET)
    marks = [m for s in RunStore(folder).scores()[0] for m in s.marks]
    assert not any("not those that the run drew" in m for m in marks), "drawn anew"


def test_a_class_that_is_not_there_is_told_those_of_the_file(method_file: str) -> None:
    """Not the classes that the file imports: 'NoiseSource' is near 'NoSuch', and no method."""
    with pytest.raises(UserError, match="has no class 'NoSuch'") as caught:
        methods.registry.get(method_file.replace("MeanColour", "NoSuch"))
    assert caught.value.hint == "known: MeanColour"


def test_a_data_set_without_its_folder_is_told_the_option() -> None:
    with pytest.raises(UserError, match="data set 'celebamask_hq': needs 'root'") as caught:
        data.open_dataset("celebamask_hq")
    assert "--root" in caught.value.hint
