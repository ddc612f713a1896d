"""The command line as a user meets it: one message an error, a traceback for a bug only."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import yaml

from sisbench import cli, metrics


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """(exit code, what was printed, without colours)."""
    argv, sys.argv = sys.argv, ["sisbench", *arguments]
    try:
        cli.main()
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    finally:
        sys.argv = argv
    printed = capsys.readouterr()
    text = re.sub(r"\x1b\[[0-9;]*m", "", printed.out + printed.err)
    assert "Traceback" not in text
    return code, text


@pytest.fixture
def config(method_file: str, tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    raw = {
        "output": str(tmp_path / "run"),
        "methods": [{"name": method_file}],
        "datasets": [{"name": "toyfaces", "size": 32, "n": 4}],
        "tasks": ["reconstruct", "transfer"],
        "metrics": ["psnr"],
    }
    path.write_text(yaml.safe_dump(raw))
    return path


def test_run_score_report(capsys: pytest.CaptureFixture[str], config: Path, tmp_path: Path) -> None:
    code, text = run(capsys, "run", str(config), "-q")
    assert code == 0
    assert "report.html" in text
    code, text = run(capsys, "score", str(tmp_path / "run"), "-m", "ssim", "-q")
    assert code == 0
    assert "SSIM" in text
    code, text = run(capsys, "report", str(tmp_path / "run"), "--formats", "md")
    assert code == 0
    assert {p.suffix for p in (tmp_path / "run/report/tables").iterdir()} == {".md"}
    assert "±" not in text
    code, text = run(capsys, "report", str(tmp_path / "run"), "--uncertainty")
    assert code == 0
    assert text.count("±") > 3


def test_protocols_of_the_command_line(
    capsys: pytest.CaptureFixture[str], config: Path, tmp_path: Path
) -> None:
    both = "sisbench1,scadm2024"
    assert run(capsys, "run", str(config), "-q", "-p", both)[0] == 0
    code, text = run(capsys, "report", str(tmp_path / "run"), "-p", both)
    assert code == 0
    assert "protocol sisbench1@" in text
    assert "protocol scadm2024@" in text
    code, text = run(capsys, "run", str(config), "-q", "-p", "sisbench2")
    assert code == 2
    assert "sisbench1" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "nowhere.yaml"), "no configuration file nowhere.yaml"),
        (("score", "nowhere"), "no file nowhere/run.json"),
        (("report", "nowhere"), "no file nowhere"),
        (("check", "saen"), "did you mean 'sean'"),
        (("check", "./nowhere.py:X"), "no such file"),
        (("explain", "fidd"), "did you mean 'fid'"),
        (("explain", "fid", "-p", "ca2sis"), "did you mean 'ca2sis2024'"),
        (("datasets", "celebamask_hq", "--root", "nowhere"), "no folder nowhere"),
        (("prepare", "toyface", "a", "b"), "did you mean 'toyfaces'"),
        (("train", "toy-parser", "-o", "x.pth"), "written as .safetensors"),
        (("train", "toy-saen", "-o", "x.safetensors"), "toy-sean"),
        (("weights", "path", "inceptoin"), "did you mean 'inception'"),
        (("weights", "fetch", "inception", "--offline"), "the network is off"),
        (("weights", "add", "inception", "nowhere.pth"), "no file nowhere.pth"),
    ],
)
def test_a_users_mistake_is_one_message(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    code, text = run(capsys, *arguments)
    assert code == 2
    assert text.startswith("error:")
    assert message in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metrics": ["fidd"]}, "did you mean 'fid'"),
        ({"protocol": "sisbench"}, "did you mean 'sisbench1'"),
        ({"protocol": {"noise": "zero"}}, "needs 'base'"),
        ({"methods": [{"name": "sean", "options": {"ngff": 3}}]}, "did you mean 'ngf'"),
        ({"methods": [{"name": "sean", "options": {"ngf": "wide"}}]}, "must be"),
        ({"tasks": [{"shape_transfer": ["hari"]}]}, "did you mean 'hair'"),
        ({"datasets": [{"name": "toyfaces", "sizes": 3}]}, "sizes"),
        ({"datasets": [{"name": "toyfaces", "split": "tset"}]}, "did you mean 'test'"),
        ({"engine": {"device": "cuda:99"}}, "no device 'cuda:99'"),
    ],
)
def test_a_bad_configuration_is_one_message(
    capsys: pytest.CaptureFixture[str], config: Path, change: dict, message: str
) -> None:
    config.write_text(yaml.safe_dump({**yaml.safe_load(config.read_text()), **change}))
    code, text = run(capsys, "run", str(config), "-q")
    assert code == 2
    assert message in text


def test_ctrl_c_says_that_nothing_is_lost(
    capsys: pytest.CaptureFixture[str], config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sisbench.pipeline.run_all", interrupted)
    code, text = run(capsys, "run", str(config), "-q")
    assert code == 130
    assert "run the same command again" in text


def test_strict_turns_a_dash_into_an_error(
    capsys: pytest.CaptureFixture[str], config: Path
) -> None:
    config.write_text(yaml.safe_dump({**yaml.safe_load(config.read_text()), "metrics": ["fid"]}))
    code, text = run(capsys, "run", str(config), "-q")
    assert code == 1, "what was asked for by name is absent"
    assert "2 scores (fid): the weights 'inception'" in text
    code, text = run(capsys, "run", str(config), "-q", "--strict")
    assert code == 2
    assert "inception" in text


def test_check_fails_an_adapter_that_breaks_the_contract(
    capsys: pytest.CaptureFixture[str], method_file: str
) -> None:
    assert run(capsys, "check", method_file)[0] == 0
    path = Path(method_file.rpartition(":")[0])
    good = path.read_text()
    for broken, clause in (
        (good.replace("clamp(-1, 1)", "mul(3)"), "values in ["),
        (good.replace("+ 0.05 * grain", "+ 0.05 * torch.randn_like(image)"), "they differ by"),
        (good.replace("(image +", "(image - image.mean(0, keepdim=True) +"), "its batch"),
        (good.replace('paper = "mean-colour"', 'paper = ""').replace('"none"', '""'), "paper"),
    ):
        other = path.with_name(f"broken{len(clause)}.py")
        other.write_text(broken)
        code, text = run(capsys, "check", f"{other}:MeanColour")
        assert code == 1, clause
        assert "FAIL" in text
        assert clause in text


def test_doctor_and_lists(capsys: pytest.CaptureFixture[str], config: Path) -> None:
    code, text = run(capsys, "doctor", str(config))
    assert code == 0
    assert "every item decodes" in text
    assert "16 images to make" not in text
    assert "8 images to make" in text
    assert "seconds on cpu, from one image a cell" in text
    assert not (config.parent / "run").exists(), "the doctor leaves nothing"
    assert "the first decodes" in run(capsys, "doctor", str(config), "--quick")[1]
    raw = yaml.safe_load(config.read_text())
    config.write_text(yaml.safe_dump({**raw, "datasets": [{"name": "folder", "root": "x"}]}))
    code, text = run(capsys, "doctor", str(config))
    assert code == 1
    assert "fail" in text
    for command in ("methods", "datasets"):
        code, text = run(capsys, command)
        assert code == 0
    assert "celebamask_hq" in text
    assert "inception" in run(capsys, "weights", "list")[1]
    assert run(capsys, "weights", "verify")[0] == 0


def test_explain_names_formula_file_and_protocols(capsys: pytest.CaptureFixture[str]) -> None:
    code, text = run(capsys, "explain", "fid", "-p", "scam2022")
    assert code == 0
    assert re.search(r"metrics/frechet\.py:\d+", text)
    for protocol in ("sisbench1", "ca2sis2024", "scam2022*", "sean2020"):
        assert protocol in text
    assert "sha256 6726825d..." in text
    assert re.search(r"resize +299 x 299 by TensorFlow 1's bilinear", text)
    assert "half-pixel" in run(capsys, "explain", "fid", "-p", "sean2020")[1]
    text = run(capsys, "explain", "miou")[1]
    assert "celebamask_hq: celebamask_unet at 512 x 512" in text
    assert "PIL's nearest rule" in text
    assert "vggface2.pt" in run(capsys, "explain", "frs")[1]


def test_every_metric_is_explained_under_every_protocol() -> None:
    from sisbench.diagnose.explain import explain
    from sisbench.protocol import presets

    for metric in metrics.registry.names():
        for protocol in presets():
            text = explain(metric, protocol)
            assert "computed in" in text
            assert metrics.registry.get(metric).title in text


METRIC = '''
import numpy as np
from sisbench.metrics.base import Metric, Score

class WorstPixel(Metric):
    """Largest squared error a set."""

    name, title, maker = "worst", "Worst image", "psnr"

    def reduce(self, rows, real=None, *, seed=0):
        return Score(float(np.max(rows["sse"])), len(rows["sse"]))
'''


def test_a_metric_of_ones_own(
    capsys: pytest.CaptureFixture[str], config: Path, tmp_path: Path
) -> None:
    own = tmp_path / "own.py"
    own.write_text(METRIC)
    raw = yaml.safe_load(config.read_text()) | {"metrics": [f"{own}:WorstPixel", "miou"]}
    config.write_text(yaml.safe_dump(raw))
    code, text = run(capsys, "run", str(config), "-q")
    assert code == 1, "mIoU was asked for, and its parser is not here"
    code, text = run(capsys, "score", str(tmp_path / "run"), "--parsers", "toy,toy2", "-q")
    assert code == 2
    assert "toy2" in text
    code, text = run(capsys, "score", str(tmp_path / "run"), "--parsers", "toy", "-q")
    assert code == 0
    assert "Worst image" in text


def test_a_disk_that_says_no_is_one_message(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", "runs/x/cells")

    monkeypatch.setattr("sisbench.pipeline.run_demo", full)
    code, text = run(capsys, "demo", "-o", str(tmp_path / "x"))
    assert code == 2
    assert text.startswith("error: runs/x/cells: No space left on device")

    def bug(*_: object, **__: object) -> None:
        raise OSError("no number: a bug")

    monkeypatch.setattr("sisbench.pipeline.run_demo", bug)
    with pytest.raises(OSError, match="a bug"):
        run(capsys, "demo", "-o", str(tmp_path / "x"))
