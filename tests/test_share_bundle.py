"""Bundles: the same run, the same bytes; and a check that trusts nothing of them."""

from __future__ import annotations

import hashlib
import io
import json
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from share_runs import other_method, scored_run, tiny_inception
from typer.testing import CliRunner

import sisbench
from sisbench.cli import app
from sisbench.core.errors import UserError
from sisbench.core.store import RunStore, read_json, write_json
from sisbench.report.paired import paired_tables
from sisbench.report.quality import RunResults
from sisbench.share import bundle as bundling
from sisbench.share.archive import read_npz
from sisbench.share.bundle import MANIFEST, write_bundle
from sisbench.share.merge import merging
from sisbench.share.merged import write_merged
from sisbench.share.verify import unpack, verify


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(run of two methods, its bundle); made once, read by many."""
    from method_text import METHOD

    folder = tmp_path_factory.mktemp("bundle")
    file = folder / "mean_colour.py"
    file.write_text(METHOD)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SISBENCH_CACHE", str(folder / "cache"))
        tiny_inception(patch)
        first = {"name": f"{file}:MeanColour", "label": "Mean"}
        second = {"name": other_method(f"{file}:MeanColour", folder), "label": "Clean"}
        run = scored_run(
            "",
            folder / "run",
            methods=[first, second],
            metrics=["fid", "r_fid", "kid", "psnr", "ssim", "miou", "seconds"],
            datasets=[
                {"name": "toyfaces", "size": 32, "n": 20, "train": {"split": "train", "n": 24}}
            ],
        )
        write_bundle(run, folder / "run.zip")
        write_bundle(run, folder / "again.zip")
        write_bundle(run, folder / "full.zip", "images")
    return run, folder / "run.zip"


def failures(path: Path) -> list[str]:
    return [f.what for f in verify(path) if f.ok is False]


def contents(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def repacked(path: Path, to: Path, change: Callable[[dict[str, bytes]], None]) -> Path:
    """The bundle with its files changed and its list of hashes made to fit."""
    files = contents(path)
    change(files)
    lines = (
        f"{hashlib.sha256(d).hexdigest()}  {n}\n" for n, d in sorted(files.items()) if n != MANIFEST
    )
    files[MANIFEST] = "".join(lines).encode()
    with zipfile.ZipFile(to, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return to


def scores_changed(change: Callable[[dict[str, Any]], None], metric: str) -> Callable[[Any], None]:
    def apply(files: dict[str, bytes]) -> None:
        raw = json.loads(files["scores.json"])
        for score in raw["scores"]:
            if score["metric"] == metric and score["method"] == "Mean":
                change(score)
        files["scores.json"] = json.dumps(raw).encode()

    return apply


def test_the_same_run_is_the_same_bytes(packed: tuple[Path, Path]) -> None:
    run, path = packed
    assert path.read_bytes() == path.with_name("again.zip").read_bytes()
    text = b"".join(d for n, d in contents(path).items() if n.endswith(".json")).decode()
    assert str(run.parent) not in text
    with pytest.raises(UserError, match="there already"):
        write_bundle(run, path)


@pytest.mark.parametrize("name", ["run.zip", "full.zip"])
def test_a_bundle_passes(packed: tuple[Path, Path], name: str) -> None:
    found = list(verify(packed[1].with_name(name)))
    assert [f.what for f in found if not f.ok] == []
    valued = sum(s.value is not None for s in RunStore(packed[0]).scores()[0])
    assert valued == 15, "seven scores of two methods, and the parser's on the photographs"
    assert f"scores: {valued} come out of their rows again" in [f.what for f in found]


def test_the_hashes_are_as_sha256sum_reads_them(packed: tuple[Path, Path], tmp_path: Path) -> None:
    unpack(packed[1], tmp_path / "out")
    for line in (tmp_path / "out" / MANIFEST).read_text().splitlines():
        digest, name = line.split("  ", 1)
        assert hashlib.sha256((tmp_path / "out" / name).read_bytes()).hexdigest() == digest


def test_an_unpacked_bundle_is_a_run(packed: tuple[Path, Path], tmp_path: Path) -> None:
    run, path = packed
    done = CliRunner().invoke(app, ["verify", str(path), "--unpack", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    there = sisbench.open_run(tmp_path / "out")
    assert there.scores()["value"].equals(sisbench.open_run(run).scores()["value"])
    tables = [paired_tables(RunResults.of(r), "Mean", [])[0] for r in (run, tmp_path / "out")]
    assert tables[0] == tables[1]


SCORE_CHANGES = [
    ("psnr", lambda s: s.update(value=s["value"] + 1e-3), "psnr: is "),
    ("fid", lambda s: s.update(value=s["value"] * 0.99), "fid: is "),
    ("r_fid", lambda s: s.update(value=s["value"] * 0.99), "r_fid: is "),
    ("kid", lambda s: s.update(value=s["value"] * 1.001), "kid: is "),
    ("miou", lambda s: s.update(value=s["value"] + 1e-4), "miou: is "),
    ("seconds", lambda s: s.update(value=s["value"] / 2), "seconds: is "),
    ("ssim", lambda s: s.update(se=s["se"] / 2), "standard error"),
    ("fid", lambda s: s.update(ci=[0.0, 1e-9]), "interval"),
    ("fid", lambda s: s.update(n=2000), "says 2000"),
    ("fid", lambda s: s.update(n_real=2000), "says 20 and 2000"),
    ("miou", lambda s: s["per_class"].update(hair=1.5), "values by class"),
    ("psnr", lambda s: s["extra"].pop("rows"), "did not come along"),
    ("fid", lambda s: s["extra"].pop("real_rows"), "needs the rows of a real set"),
    ("fid", lambda s: s["extra"].update(real_rows="../../etc/passwd"), "there is no file"),
    ("psnr", lambda s: s.update(cell="f" * 64), "of no cell"),
    ("psnr", lambda s: s.update(protocol="other@1"), "is not described"),
    ("psnr", lambda s: s.update(value=None, reason=""), "neither a value nor a reason"),
    ("psnr", lambda s: s.update(method="SEAN"), "of no cell"),
    ("psnr", lambda s: s.update(metric="./evil.py:Metric"), "no metric is called"),
]


@pytest.mark.parametrize(("metric", "change", "said"), SCORE_CHANGES)
def test_a_score_that_its_rows_do_not_give(
    metric: str, change: Any, said: str, packed: tuple[Path, Path], tmp_path: Path
) -> None:
    bad = repacked(packed[1], tmp_path / "bad.zip", scores_changed(change, metric))
    found = failures(bad)
    assert any(said in line for line in found), found


def drop(pattern: str) -> Callable[[dict[str, bytes]], None]:
    def apply(files: dict[str, bytes]) -> None:
        for name in [n for n in files if pattern in n]:
            del files[name]

    return apply


def edit(name: str, change: Callable[[Any], Any]) -> Callable[[dict[str, bytes]], None]:
    def apply(files: dict[str, bytes]) -> None:
        raw = json.loads(files[name])
        change(raw)
        files[name] = json.dumps(raw).encode()

    return apply


def values_scaled(files: dict[str, bytes]) -> None:
    name = next(n for n in files if "/values/psnr" in n)
    stored = read_npz(files[name], name)
    buffer = io.BytesIO()
    np.savez(buffer, ids=stored["ids"], values=stored["values"] + 1)
    files[name] = buffer.getvalue()


def rows_pickled(files: dict[str, bytes]) -> None:
    name = next(n for n in files if "/rows/psnr" in n)
    buffer = io.BytesIO()
    np.savez(buffer, ids=np.array([{}], object), sse=np.zeros(1))
    files[name] = buffer.getvalue()


def rows_claiming(files: dict[str, bytes]) -> None:
    """An array that says to be of a petabyte."""
    name = next(n for n in files if "/rows/psnr" in n)
    buffer = io.BytesIO()
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f8", "fortran_order": False, "shape": (1 << 47,)}
    )
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("ids.npy", header.getvalue())
    files[name] = buffer.getvalue()


FILE_CHANGES = [
    (drop("bundle.json"), "there is no file bundle.json"),
    (drop("cell.json"), "no cell.json"),
    (drop("items/"), "is done with 0 of 20"),
    (drop("/values/fid"), "there is no file"),
    (drop("thumbnails/"), "thumbnails/"),
    (drop("real/"), "there is no file real/"),
    (values_scaled, "holds other values"),
    (rows_pickled, "pickled objects"),
    (rows_claiming, "holds no plain arrays"),
    (edit("run.json", lambda r: r["provenance"].pop("libraries")), "libraries is not stated"),
    (edit("run.json", lambda r: r["provenance"].update(time="")), "time is not stated"),
    (edit("run.json", lambda r: r["cells"][0]["dataset"].update(fingerprint="")), "fingerprint"),
    (edit("run.json", lambda r: r.update(name="/home/me/runs/x")), "path of a machine"),
    (edit("run.json", lambda r: r["cells"][0].update(folder="../../x")), "within its run"),
    (edit("run.json", lambda r: r.update(schema=99)), "later sisbench"),
    (edit("scores.json", lambda r: r["protocols"][0].update(fid="clean")), "its fields are those"),
    (edit("scores.json", lambda r: r["metrics"]["fid"].update(direction="up")), "direction"),
    (edit("scores.json", lambda r: r["scores"].append(r["scores"][0])), "stands twice"),
    (edit("bundle.json", lambda r: r["tolerance"].update(value_relative=1.0)), "tolerance"),
    (edit("bundle.json", lambda r: r["spaces"].clear()), "does not describe the classes"),
]


@pytest.mark.parametrize(("change", "said"), FILE_CHANGES, ids=[said for _, said in FILE_CHANGES])
def test_a_bundle_that_was_changed(
    change: Any, said: str, packed: tuple[Path, Path], tmp_path: Path
) -> None:
    found = failures(repacked(packed[1], tmp_path / "bad.zip", change))
    assert any(said in line for line in found), found


def test_a_changed_file_is_not_the_one_that_was_listed(
    packed: tuple[Path, Path], tmp_path: Path
) -> None:
    files = contents(packed[1])
    files["scores.json"] += b" "
    del files["bundle.json"]
    files["more.txt"] = b""
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    found = failures(tmp_path / "bad.zip")
    assert "hashes: scores.json is not the file that was listed" in found
    assert "hashes: bundle.json is listed and not there" in found
    assert "hashes: more.txt is not listed" in found
    done = CliRunner().invoke(
        app, ["verify", str(tmp_path / "bad.zip"), "--unpack", str(tmp_path / "o")]
    )
    assert done.exit_code == 1
    assert not (tmp_path / "o").exists()


def info(name: str, mode: int = 0) -> zipfile.ZipInfo:
    found = zipfile.ZipInfo(name)
    found.external_attr = mode << 16
    return found


HOSTILE = [
    ([info("../out.txt")], "leads out"),
    ([info("/etc/out.txt")], "leads out"),
    ([info("a/../../out.txt")], "leads out"),
    ([info("..\\out.txt")], "leads out"),
    ([info("C:out.txt")], "leads out"),
    ([info("a//b.txt")], "no plain form"),
    ([info("./b.txt")], "no plain form"),
    ([info("link", stat.S_IFLNK | 0o777)], "link"),
    ([info("folder/")], "folder"),
    ([info("fifo", stat.S_IFIFO | 0o600)], "device"),
    ([info("a.txt"), info("a.txt")], "stands twice"),
]


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(("members", "said"), HOSTILE, ids=[m[0].filename for m, _ in HOSTILE])
def test_hostile_names_are_refused(members: list[Any], said: str, tmp_path: Path) -> None:
    path = tmp_path / "hostile.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for member in members:
            archive.writestr(member, b"x")
    assert said in failures(path)[0]
    with pytest.raises(UserError, match=said):
        unpack(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_zip_bomb_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.json", bytes(1 << 22))
    found = [f.what for f in verify(path, largest=1 << 20) if f.ok is False]
    assert "at most 1048576" in found[0]
    data = bytearray(path.read_bytes())
    at = data.rindex(b"PK\x01\x02")  # the directory says 10 bytes, the file unpacks to 4 MiB
    data[at + 24 : at + 28] = (10).to_bytes(4, "little")
    path.write_bytes(bytes(data))
    assert failures(path)


@pytest.mark.parametrize("data", [b"", b"no zip", b"PK\x03\x04" + bytes(60)])
def test_no_archive_is_one_failure(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(data)
    assert "no zip archive" in failures(tmp_path / "x.zip")[0]


def test_any_cut_or_flipped_byte_is_a_failure_and_no_crash(
    packed: tuple[Path, Path], tmp_path: Path
) -> None:
    data = packed[1].read_bytes()
    rng = np.random.default_rng(0)
    for at in rng.integers(0, len(data), 6):
        broken = bytearray(data)
        broken[at] ^= 0xFF
        (tmp_path / "x.zip").write_bytes(bytes(broken))
        same = contents_or_none(tmp_path / "x.zip") == contents(packed[1])
        assert failures(tmp_path / "x.zip") or same, at
    (tmp_path / "x.zip").write_bytes(data[: len(data) // 2])
    assert failures(tmp_path / "x.zip")


def contents_or_none(path: Path) -> dict[str, bytes] | None:
    try:
        return contents(path)
    except Exception:  # whatever a broken zip raises
        return None


def test_large_features_become_statistics(
    method_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_inception(monkeypatch)
    run = scored_run(method_file, tmp_path / "run", metrics=["fid", "kid"])
    monkeypatch.setattr(bundling, "MOST_FEATURES", 100)
    (note,) = write_bundle(run, tmp_path / "run.zip")
    assert "mean and covariance of 20 images" in note
    found = list(verify(tmp_path / "run.zip"))
    assert [f.what for f in found if f.ok is False] == []
    (skipped,) = (f.what for f in found if f.ok is None)
    assert "kid: KID needs the features" in skipped
    done = CliRunner().invoke(app, ["verify", str(tmp_path / "run.zip"), "--strict"])
    assert done.exit_code == 1
    write_bundle(run, tmp_path / "all.zip", every_feature=True)
    assert all(f.ok for f in verify(tmp_path / "all.zip"))


def test_statistics_in_place_of_photographs_come_along(
    method_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from share_runs import QUIET

    from sisbench.pipeline import score_run

    tiny_inception(monkeypatch)
    run = scored_run(method_file, tmp_path / "run", metrics=["fid"])
    given = tmp_path / "given.npz"
    args = ["stats", "export", str(run), "-o", str(given), "--no-features"]
    assert CliRunner().invoke(app, args).exit_code == 0
    score_run(run, None, [], [], QUIET, real_stats=[str(given)])
    write_bundle(run, tmp_path / "run.zip")
    assert all(f.ok for f in verify(tmp_path / "run.zip"))
    assert "real/given.npz" in contents(tmp_path / "run.zip")


def test_a_merged_run_can_be_packed(
    packed: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SISBENCH_CACHE", str(packed[0].parent / "cache"))
    unpack(packed[1], tmp_path / "theirs")
    with pytest.raises(UserError, match="gone"):
        write_bundle(tmp_path / "theirs", tmp_path / "no.zip", "images")
    scores = RunStore(packed[0]).scores_file()
    other = tmp_path / "other"
    write_merged(merging([packed[0], tmp_path / "theirs"]), other)
    assert len(RunStore(other).scores()[0]) == len(scores.scores)
    write_bundle(other, tmp_path / "other.zip")
    assert failures(tmp_path / "other.zip") == []


def test_rows_that_are_gone_are_named(
    method_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = scored_run(method_file, tmp_path / "run", metrics=["psnr"], parsers={})
    scores = read_json(run / "scores.json")
    named = scores["scores"][0]["extra"].pop("rows")
    write_json(run / "scores.json", scores)
    with pytest.raises(UserError, match="psnr does not say which rows it rests on"):
        write_bundle(run, tmp_path / "run.zip")
    scores["scores"][0]["extra"]["rows"] = named
    write_json(run / "scores.json", scores)
    for path in run.rglob("rows/psnr*.npz"):
        path.unlink()
    with pytest.raises(UserError, match="the rows of Mean, reconstruct on toyfaces: psnr are gone"):
        write_bundle(run, tmp_path / "run.zip")
    assert not list(tmp_path.glob("*.zip"))


def test_images_that_the_run_did_not_draw_are_not_handed_on(
    method_file: str, tmp_path: Path
) -> None:
    run = scored_run(method_file, tmp_path / "run", metrics=["psnr"], parsers={})
    image = next(run.rglob("images/*.png"))
    Image.new("RGB", Image.open(image).size).save(image)
    with pytest.raises(UserError, match=f"1 images are not the files .* '{image.stem}' first"):
        write_bundle(run, tmp_path / "run.zip")
    assert not list(tmp_path.glob("*.zip"))


def test_a_run_folder_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a folder, no bundle") as caught:
        failures(tmp_path)
    assert f"sisbench bundle {tmp_path}" in caught.value.hint
