"""Own files cut, filled with garbage or gone: ``score`` and ``report`` name them and give what they
can, one more ``run`` gives the undisturbed bytes."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from harness import SEED, Bench, Ended, different, own_files, sisbench
from test_kills import commands
from writes import events, killed, listed

from sisbench.core.errors import UserError
from sisbench.core.store import CellFolder, read_values, write_values
from sisbench.run.stored import write_items
from sisbench.score.rows import _read

FAULTS = pytest.mark.faults
Damage = Callable[[Path, random.Random], None]


def cut(share: float, less: int = 0) -> Damage:
    def damage(path: Path, _: random.Random) -> None:
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * share) - less])

    return damage


def garbage(path: Path, rng: random.Random) -> None:
    path.write_bytes(rng.randbytes(max(1, path.stat().st_size)))


def one_byte(path: Path, rng: random.Random) -> None:
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


DAMAGES: dict[str, Damage] = {
    "empty": cut(0),
    "half": cut(0.5),
    "last byte": cut(1, 1),
    "garbage": garbage,
    "gone": lambda path, _: path.unlink(),
}

NAMED = {
    "run.json": ("report", "score"),
    "scores.json": ("report",),
    "cell.json": ("report",),
    "items": ("report", "score"),
    "images": ("score",),
    "labels": ("score",),
    "values": ("report",),
}
"""Kind of file -> the commands that name it where it is damaged."""
UNSEEN = {
    ("images", "last byte"),  # the pixels are whole: only run, which vouches for files, asks
    ("labels", "last byte"),
    ("scores.json", "last byte"),  # a line's end
    ("run.json", "last byte"),
    ("cell.json", "last byte"),
    ("values", "gone"),  # not every score has values
    ("cell.json", "gone"),  # a cell that was never begun has none either
    ("labels", "gone"),  # most tasks draw the target's own label map
}


def kind_of(path: Path) -> str:
    """Folder of a file in its cell, or the name of one that stands alone."""
    return path.parent.name if path.parent.name in NAMED else path.name


def damaged(bench: Bench, name: str, damage: str, rng: random.Random) -> None:
    """One file of a finished run: damage it, report, score, run."""
    folder = bench.copy("damaged")
    path = folder / name
    DAMAGES[damage](path, rng)
    kind, about = kind_of(path), f"{name}: {damage}"
    ended: dict[str, Ended] = {}
    if kind in NAMED:
        ended["report"] = sisbench("report", "run", cwd=folder)
    ended["score"] = sisbench("score", "run", cwd=folder)
    for command, one in ended.items():
        text = one.told()
        absent = command == "score" and one.code == 1 and "absent: " in text
        whole = one.code == 0 or (one.code == 2 and kind == "run.json")
        assert whole or absent, (about, command, text)
        if command in NAMED.get(kind, ()) and (kind, damage) not in UNSEEN:
            named = path.name in text or f"{path.parent.name} has the rows" in text
            assert named, (about, command, text)
    bench.check(folder, about)


def files(bench: Bench) -> list[str]:
    """Every own file but those of the report, which is made anew as a whole."""
    names = [p.relative_to(bench.whole).as_posix() for p in own_files(bench.whole)]
    return [n for n in names if not n.startswith("run/report/") and n != "run/stages.json"]


@FAULTS
@pytest.mark.parametrize("damage", DAMAGES)
def test_every_own_file(
    small: Bench, damage: str, record_property: Callable[[str, object], None]
) -> None:
    rng = random.Random(f"{SEED} {damage}")
    names, faults = files(small), []
    for name in names:
        try:
            damaged(small, name, damage, rng)
        except AssertionError as error:
            faults.append(str(error)[:1500])
    assert not faults, "\n\n".join(faults)
    record_property("faults", f"{len(names)} files")


@pytest.mark.parametrize(
    ("pattern", "damage"),
    [
        ("run/cells/*/images/1.png", "half"),
        ("run/cells/*/items/all-*.parquet", "gone"),
        ("run/scores.json", "garbage"),
        ("run/cells/*/rows/confusion*.npz", "half"),
    ],
)
def test_some_own_files(small: Bench, pattern: str, damage: str) -> None:
    path = sorted(small.whole.glob(pattern))[0]
    name = path.relative_to(small.whole).as_posix()
    damaged(small, name, damage, random.Random(SEED))


@FAULTS
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_report_is_made_anew(small: Bench, damage: str) -> None:
    """All of its files at once, and RUN/stages.json, which only says what took how long."""
    folder, rng = small.copy("unreported"), random.Random(f"{SEED} {damage}")
    for path in own_files(folder):
        if "report" in path.parts or path.name == "stages.json":
            DAMAGES[damage](path, rng)
    reported = sisbench("report", "run", cwd=folder)
    assert reported.code == 0, reported.told()
    small.check(folder, damage)


@FAULTS
def test_one_bit_of_an_image(small: Bench, record_property: Callable[[str, object], None]) -> None:
    """A flipped bit is found by the checksums of PNG, wherever it is."""
    rng = random.Random(f"{SEED} bits")
    count = 20
    for _ in range(count):
        folder = small.copy("bit")
        path = rng.choice(sorted(folder.glob("run/cells/*/images/*.png")))
        one_byte(path, rng)
        small.check(folder, path)
    record_property("faults", f"{count} images")


def checkpoint(bench: Bench) -> tuple[Path, bytes]:
    """A training killed while it holds a checkpoint: (its folder, the checkpoint)."""
    arguments, start, _ = commands(bench)["train"]
    folder, log = start(bench, "train-listed"), bench.base / "train.txt"
    assert sisbench(*arguments, cwd=folder, before=listed, given=(str(folder), str(log))).code == 0
    renamed = [at for at, (kind, path) in enumerate(events(log)) if kind == "rename"]
    folder = start(bench, "train-killed")
    killed_at = (str(folder), renamed[1])  # before the second checkpoint takes its place
    assert sisbench(*arguments, cwd=folder, before=killed, given=killed_at).code == -9
    return folder, (folder / "out" / "w.safetensors.ckpt").read_bytes()


@pytest.mark.parametrize(
    "damages", [["half"], pytest.param([*DAMAGES, *["one bit"] * 6], marks=FAULTS)]
)
def test_a_damaged_checkpoint(bench: Bench, damages: list[str]) -> None:
    """Training says so and starts anew: the weights are those of an undisturbed training."""
    arguments, start, content = commands(bench)["train"]
    whole = start(bench, "train-whole")
    assert sisbench(*arguments, cwd=whole).code == 0
    expected = content(whole)
    folder, data = checkpoint(bench)
    rng = random.Random(SEED)
    for damage in damages:
        path = folder / "out" / "w.safetensors.ckpt"
        path.with_suffix("").unlink(missing_ok=True)  # finished weights are not trained again
        path.write_bytes(data)
        (one_byte if damage == "one bit" else DAMAGES[damage])(path, rng)
        again = sisbench(*arguments, cwd=folder)
        assert again.code == 0, (damage, again.told())
        if damage not in ("gone", "one bit"):  # a bit may be one of the padding
            assert "is damaged: training starts anew" in again.told(), damage
        assert not different(expected, content(folder)), damage


@pytest.mark.parametrize("damages", [["half"], pytest.param([*DAMAGES], marks=FAULTS)])
def test_a_damaged_prepared_folder(
    bench: Bench, damages: list[str], record_property: Callable[[str, object], None]
) -> None:
    arguments, start, content = commands(bench)["prepare"]
    whole = start(bench, "prepare-whole")
    assert sisbench(*arguments, cwd=whole).code == 0
    expected, count = content(whole), 0
    rng = random.Random(SEED)
    for path in sorted(p for p in (whole / "to").rglob("*") if p.is_file()):
        for damage in damages:
            data = path.read_bytes()
            DAMAGES[damage](path, rng)
            again = sisbench(*arguments, cwd=whole)
            assert again.code == 0, (path, damage, again.told())
            assert not different(expected, content(whole)), (path, damage)
            path.write_bytes(data)
            count += 1
    record_property("faults", f"{count} damaged files")


def cell_files(folder: Path) -> dict[Path, Callable[[], object]]:
    """Every kind of file that carries checksums -> what reads it."""
    cell = CellFolder(folder)
    write_values(cell, "psnr", "p", ["0", "1", "2"], np.array([1.0, 2.0, 3.0]))
    rows = folder / "rows.npz"
    np.savez(rows, ids=np.array(["0", "1"]), a=np.zeros((2, 3)))
    known = [{"id": str(i), "index": i, "error": "", "classes": [1, 2]} for i in range(3)]
    write_items(folder / "items" / "all.parquet", known)
    (values,) = (folder / "values").iterdir()
    return {
        values: lambda: read_values(cell, "psnr", "p"),
        rows: lambda: _read(rows, ("0", "1")),
        folder / "items" / "all.parquet": cell.item_rows,
    }


@pytest.mark.parametrize("most", [300, pytest.param(20_000, marks=FAULTS)])
def test_flipped_bits(
    tmp_path: Path, most: int, record_property: Callable[[str, object], None]
) -> None:
    """A file of arrays is as it was or counts as damaged; of item rows, almost always."""
    said = []
    for path, read in cell_files(tmp_path).items():
        data, whole = path.read_bytes(), repr(read())
        bits = [(at, bit) for at in range(len(data)) for bit in range(8)]
        chosen = random.Random(SEED).sample(bits, min(most, len(bits)))
        unseen = 0
        for at, bit in chosen:
            changed = bytearray(data)
            changed[at] ^= 1 << bit
            path.write_bytes(changed)
            try:
                found = read()
            except UserError:
                continue
            unseen += bool(found) and repr(found) != whole
        path.write_bytes(data)
        assert unseen <= (0.01 * len(chosen) if path.suffix == ".parquet" else 0), path.name
        said.append(f"{len(chosen)} bits of {path.name}, {unseen} unseen")
    record_property("faults", "; ".join(said))
