"""What is shipped: a wheel holds ``sisbench`` alone and works beside any files of a user."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path, PurePosixPath

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
FOLDERS = PROJECT["tool"]["setuptools"]["package-dir"]  # import name -> folder
SHIPPED = ("pyproject.toml", "setup.py", "README.md", "LICENSE")
OWN_NAMES = ("bench", "methods", "metrics", "segmenters", "results", "core", "run", "score")
RUN = """
name: tiny
methods: [{name: spade, label: SPADE, weights: bundled:toy-spade}]
datasets: [{name: toyfaces, split: test, size: 64, n: 3}]
tasks: [reconstruct, transfer]
parsers: {celebamask_hq: toy}
metrics: [miou, psnr]
"""


def call(*command: str | Path, cwd: Path, **variables: str) -> str:
    """What a command prints; it must succeed."""
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run(
        [*map(str, command)], cwd=cwd, env=env | variables, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build(kind: str, source: Path, out: Path) -> Path:
    """A "wheel" or an "sdist" of the sources in ``source``, made without the network."""
    out.mkdir(parents=True, exist_ok=True)
    hook = f"from setuptools import build_meta; print(build_meta.build_{kind}({str(out)!r}))"
    return out / call(sys.executable, "-c", hook, cwd=source).splitlines()[-1]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what is built, so that no earlier build's files are found."""
    folder = tmp_path_factory.mktemp("source")
    for name in SHIPPED:
        shutil.copy(ROOT / name, folder / name)
    for name in FOLDERS.values():
        unwanted = shutil.ignore_patterns("__pycache__", "runs")
        shutil.copytree(ROOT / name, folder / name, ignore=unwanted)
    return folder


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", source, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def unpacked(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unpacked")
    zipfile.ZipFile(wheel).extractall(folder)
    return folder


@pytest.fixture
def crowded(tmp_path: Path) -> Path:
    """A current folder whose own modules have our folders' names, and fail when imported."""
    for name in OWN_NAMES:
        (tmp_path / f"{name}.py").write_text(f"raise RuntimeError('imported {name}.py')\n")
    for name in ("metrics", "segmenters"):
        (tmp_path / f"{name}.py").unlink()
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"raise RuntimeError('imported {name}')\n")
    (tmp_path / "tiny.yaml").write_text(RUN)
    return tmp_path


def files_in(wheel: Path) -> set[str]:
    return {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}


def test_a_wheel_holds_one_top_level_name(wheel: Path) -> None:
    names = {PurePosixPath(name).parts[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert names == {"sisbench", f"sisbench-{PROJECT['project']['version']}.dist-info"}


def test_a_wheel_holds_every_file_of_the_folders(wheel: Path, source: Path) -> None:
    expected = {
        f"{name.replace('.', '/')}/{path.relative_to(source / folder).as_posix()}"
        for name, folder in FOLDERS.items()
        for path in (source / folder).rglob("*")
        if path.is_file()
    }
    assert files_in(wheel) == expected


def test_a_wheel_holds_the_data_that_code_opens(wheel: Path) -> None:
    found = files_in(wheel)
    for name in (
        "py.typed",
        "protocols.yaml",
        "demo.yaml",
        "core/spaces.yaml",
        "core/weights.yaml",
        "report/template.html",
        "report/style.css",
        "bundled/toy-spade.safetensors",
        "bundled/toy-sean.safetensors",
        "segmenters/toy_weights.safetensors",
        "results/published/published.csv",
        "results/tables/ca2sis_table1.yaml",
        "training/recipes/toy-spade.yaml",
    ):
        assert f"sisbench/{name}" in found


def test_an_sdist_builds_the_same_wheel(wheel: Path, source: Path, tmp_path: Path) -> None:
    with tarfile.open(build("sdist", source, tmp_path)) as archive:
        archive.extractall(tmp_path, filter="data")
    (folder,) = (p for p in tmp_path.iterdir() if p.is_dir())
    assert files_in(build("wheel", folder, tmp_path / "again")) == files_in(wheel)


def test_an_unpacked_wheel_works_outside_the_clone(unpacked: Path, crowded: Path) -> None:
    use_sisbench(crowded, [sys.executable, "-m", "sisbench"], unpacked, PYTHONPATH=str(unpacked))


@pytest.mark.slow
def test_a_wheel_works_in_a_fresh_environment(wheel: Path, crowded: Path, tmp_path: Path) -> None:
    home = tmp_path / "fresh"
    venv.create(home, with_pip=False, symlinks=True)
    (library,) = home.glob("lib/python*/site-packages")
    shared = [p for p in sys.path if p.endswith("site-packages")]
    (library / "shared.pth").write_text("\n".join(shared))  # nothing is downloaded
    python = home / "bin" / "python"
    install = ("install", "--quiet", "--no-deps", "--no-index", "--force-reinstall", wheel)
    call(sys.executable, "-m", "pip", "--python", python, *install, cwd=tmp_path)
    use_sisbench(crowded, [str(home / "bin" / "sisbench")], library)
    use_sisbench(crowded, [str(python), "-m", "sisbench"], library)


def use_sisbench(folder: Path, sisbench: list[str], library: Path, **variables: str) -> None:
    """List, run and report in ``folder``, with the package that lies in ``library``."""
    python = str(library.parents[2] / "bin" / "python") if not variables else sys.executable
    where = call(python, "-c", "import sisbench; print(sisbench.__file__)", cwd=folder, **variables)
    assert Path(where.strip()).is_relative_to(library)
    assert "spade" in call(*sisbench, "methods", cwd=folder, **variables)
    call(*sisbench, "run", "tiny.yaml", "--quiet", cwd=folder, **variables)
    printed = call(*sisbench, "report", "runs/tiny", "--versus", "ca2sis", cwd=folder, **variables)
    assert "SPADE" in printed
    tables = folder / "runs" / "tiny" / "report"
    assert [p for p in tables.rglob("*.md") if "ca2sis" in p.name or "CA2-SIS" in p.read_text()]


TYPED = (
    "sisbench.methods.base.Method.transfer",
    "sisbench.methods.base.Style.swap",
    "sisbench.metrics.base.Metric.reduce",
    "sisbench.metrics.create",
    "sisbench.segmenters.create",
    "sisbench.data.open_dataset",
    "sisbench.config.load_config",
    "sisbench.protocol.get_protocol",
    "sisbench.core.batch.Batch",
    "sisbench.pipeline.run_all",
)


@pytest.mark.slow
def test_a_type_checker_sees_our_types(unpacked: Path, tmp_path: Path) -> None:
    """Of the wheel, as a user's mypy reads it: nothing that we offer is Any."""
    import sisbench

    public = [f"sisbench.{name}" for name in getattr(sisbench, "__all__", ())]
    names = [*TYPED, *(name for name in public if not name.startswith("sisbench._"))]
    modules = sorted({name.rpartition(".")[0] for name in TYPED} - {"sisbench.methods.base.Method"})
    modules = sorted({re.sub(r"\.[A-Z]\w*$", "", name) for name in modules})
    lines = [*(f"import {module}" for module in modules), *(f"reveal_type({n})" for n in names)]
    (tmp_path / "user.py").write_text("\n".join(lines) + "\n")
    printed = call(
        sys.executable, "-m", "mypy", "--follow-imports=silent", "--ignore-missing-imports",
        "--cache-dir", tmp_path / "cache", "user.py", cwd=tmp_path, MYPYPATH=str(unpacked),
    )  # fmt: skip
    revealed = re.findall(r'Revealed type is "(.*)"', printed)
    assert len(revealed) == len(names), printed
    for name, kind in zip(names, revealed, strict=True):
        assert kind != "Any", f"{name} is Any for a type checker"
        assert "-> Any" not in kind, f"{name} returns Any: {kind}"
        assert "def (*" not in kind, f"{name} has no signature: {kind}"


def test_oldest_versions_are_the_declared_ones() -> None:
    """``make test-oldest`` installs exactly the lower bounds that pyproject.toml declares."""
    project = PROJECT["project"]
    extras = {k: v for k, v in project["optional-dependencies"].items() if k != "dev"}
    declared = {}
    for text in (*project["dependencies"], *(r for extra in extras.values() for r in extra)):
        wanted = Requirement(text)
        (bound,) = (b for b in wanted.specifier if b.operator in (">=", "=="))
        declared[wanted.name] = Version(bound.version)
    pinned = {}
    for line in (ROOT / "tests" / "oldest.txt").read_text(encoding="utf-8").splitlines():
        text = line.split("#")[0].strip()
        if text:
            wanted = Requirement(text)
            (pin,) = wanted.specifier
            assert pin.operator == "=="
            pinned[wanted.name] = Version(pin.version)
    assert pinned == declared
