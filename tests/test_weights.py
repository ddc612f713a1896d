"""The weights registry: entries, hashes, recognition, pins, remedies; nothing is downloaded."""

from __future__ import annotations

import hashlib
import json
import os

import pooch
import pytest

from sisbench.core import weights
from sisbench.core.errors import Unavailable, UserError

CONTENT = b"\x80\x02parameters"
HASH = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A registry of three made-up files in a folder of their own."""
    monkeypatch.setenv("SISBENCH_WEIGHTS", str(tmp_path / "cache"))
    common = {"kind": "metric", "purpose": "test"}
    entries = {
        "known": weights.Weight("known", **common, file="k.pth", sha256=HASH, where="ask"),
        "prefix": weights.Weight(
            "prefix",
            **common,
            file="p.pth",
            sha256_prefix=HASH[:8],
            url="https://example.invalid/p",
        ),
        "blank": weights.Weight("blank", **common, file="b.pth"),
    }
    monkeypatch.setattr(weights, "load_registry", lambda: entries)
    (tmp_path / "cache").mkdir()
    return tmp_path / "cache"


@pytest.fixture
def source(tmp_path):
    file = tmp_path / "mine.bin"
    file.write_bytes(CONTENT)
    return file


def test_real_registry_is_well_formed(monkeypatch):
    monkeypatch.undo()
    registry = weights.load_registry()
    assert {"inception", "lpips-alex", "facenet", "reid", "celebamask_unet", "scam"} <= set(
        registry
    )
    files = [w.file for w in registry.values()]
    assert len(files) == len(set(files))
    for weight in registry.values():
        assert weight.kind in ("metric", "training", "parser", "method")
        assert weight.url or weight.where
        assert weight.sha256 is None or len(weight.sha256) == 64
        assert weight.sha256_prefix is None or weight.sha256_prefix in weight.file


def test_absent_says_what_to_do(folder):
    with pytest.raises(Unavailable) as found:
        weights.path("prefix")
    assert "p.pth" in str(found.value)
    assert "sisbench weights fetch prefix" in str(found.value)
    with pytest.raises(Unavailable, match=r"ask; then: sisbench weights add known FILE"):
        weights.path("known")
    with pytest.raises(UserError, match="did you mean 'known'"):
        weights.path("knwon")


def test_add_verifies_or_pins(folder, source):
    assert "verified" in weights.add("known", source)
    assert weights.path("known") == folder / "k.pth"
    assert "pinned" in weights.add("blank", source)
    assert weights.path("blank") == folder / "b.pth"
    assert json.loads((folder / weights.LOCK).read_text()) == {"blank": HASH}
    source.write_bytes(b"\x80\x02other")
    with pytest.raises(UserError, match="expected"):
        weights.add("known", source)
    with pytest.raises(UserError, match="expected"):
        weights.add("blank", source)
    with pytest.raises(UserError, match="no file"):
        weights.add("known", folder / "nothing")


def test_a_changed_file_is_refused(folder, source):
    weights.add("known", source)
    assert weights.path("known").is_file()
    (folder / "k.pth").write_bytes(b"\x80\x02parametery")  # same size
    os.utime(folder / "k.pth", ns=(1, 1))
    with pytest.raises(UserError, match=HASH):
        weights.path("known")
    assert [(n, ok) for n, ok, _ in weights.verify()] == [("known", False)]


def test_any_name_is_recognised_by_hash(folder, source):
    (folder / "download (1).bin").write_bytes(CONTENT)
    assert weights.path("known") == folder / "download (1).bin"
    assert weights.identify(source) == "known"
    source.write_bytes(b"foreign")
    assert weights.identify(source) is None


def test_a_file_that_nobody_vouched_for(folder):
    (folder / "b.pth").write_bytes(CONTENT)
    with pytest.raises(UserError, match="weights add blank"):
        weights.path("blank")
    assert weights.status()[2]["state"] == "not pinned"


def test_prefix_is_checked_then_pinned(folder, source):
    (folder / "p.pth").write_bytes(b"\x80\x02wrong")
    with pytest.raises(UserError, match=HASH[:8]):
        weights.path("prefix")
    weights.add("prefix", source)
    assert json.loads((folder / weights.LOCK).read_text())["prefix"] == HASH


def test_fetch(folder, monkeypatch):
    with pytest.raises(Unavailable, match="the network is off"):
        weights.fetch("prefix", offline=True)
    with pytest.raises(Unavailable, match="no address"):
        weights.fetch("known")
    content = [b"an error page", CONTENT]

    def retrieve(url, known_hash, fname, path, progressbar):
        assert url == "https://example.invalid/p"
        (folder / fname).write_bytes(content.pop(0))
        return str(folder / fname)

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    with pytest.raises(UserError, match="another file"):
        weights.fetch("prefix")
    assert not (folder / "p.pth").exists()
    assert weights.fetch("prefix") == folder / "p.pth"
    assert weights.fetch("prefix") == folder / "p.pth"  # here already: nothing is left to fetch
    assert weights.path("prefix") == folder / "p.pth"


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"<!DOCTYPE html><html>Quota exceeded</html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "Git LFS pointer"),
        (b"\x1f\x8b\x08\x00garbage", "an archive (gzip)"),
        (b"PK\x03\x04 and no end", "cut off"),
        (b'{"error": "not found"}', "a JSON text"),
        (b"", "empty"),
    ],
)
def test_what_is_no_weights_file_is_named_before_anything_is_pinned(folder, source, content, named):
    source.write_bytes(content)
    for name in ("known", "prefix", "blank"):
        with pytest.raises(UserError) as caught:
            weights.add(name, source)
        assert named in str(caught.value)
    assert not list(folder.iterdir())
    with pytest.raises(UserError, match="folder"):
        weights.add("blank", folder)
    (folder / "b.pth").write_bytes(content)  # as a browser left it there
    with pytest.raises(UserError) as caught:
        weights.path("blank")
    assert named in str(caught.value)


def test_a_download_that_is_no_weights_file_is_not_pinned(folder, monkeypatch):
    common = {"kind": "metric", "purpose": "test", "url": "https://example.invalid/p"}
    entry = weights.Weight("fresh", **common, file="f.pth")
    monkeypatch.setattr(weights, "load_registry", lambda: {"fresh": entry})

    def retrieve(fname, **_):
        (folder / fname).write_bytes(b"<html>log in</html>")
        return str(folder / fname)

    monkeypatch.setattr(pooch, "retrieve", lambda url, **named: retrieve(**named))
    with pytest.raises(UserError, match="a web page"):
        weights.fetch("fresh")
    assert not list(folder.iterdir())


def test_explicit_path(source):
    assert weights.resolve("known", source) == source
    with pytest.raises(Unavailable, match="no weights file"):
        weights.resolve("known", source.parent / "absent")


def test_damaged_lock(folder, source):
    (folder / weights.LOCK).write_text("{")
    with pytest.raises(UserError, match="damaged"):
        weights.path("blank")


def test_status(source):
    weights.add("known", source)
    rows = {row["name"]: row for row in weights.status()}
    assert rows["known"]["here"]
    assert rows["known"]["state"] == "here"
    assert not rows["prefix"]["here"]
    assert rows["prefix"]["source"].startswith("https")
