"""Threads that write pictures, and row files that several processes join at once."""

from __future__ import annotations

import threading
from concurrent.futures import wait
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sisbench.core import store
from sisbench.core.store import CellFolder
from sisbench.run import stored
from sisbench.run.stored import Destination, Drawn, Writers, merge_items, write_items


def drawn(n: int) -> list[Drawn]:
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (n, 16, 16, 3), dtype=np.uint8)
    label = np.arange(256).reshape(16, 16) % 7
    return [
        Drawn(row(str(k), k), image, label if k % 2 else None) for k, image in enumerate(images)
    ]


def row(name: str, index: int, error: str = "", **more: Any) -> dict[str, Any]:
    return {"id": name, "index": index, "error": error, "classes": [], **more}


def place(folder: Path) -> Destination:
    return Destination(folder, "key", "round", frozenset())


def content(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*.png"))}


# ---- writers ----------------------------------------------------------------------------------


def test_bytes_and_rows_are_the_same_for_any_number_of_threads(tmp_path: Path) -> None:
    found = []
    for threads in (1, 2, 5):
        one = place(tmp_path / str(threads))
        with Writers(threads, 3) as writers:
            for k in range(0, 12, 4):
                writers.write(one, drawn(12)[k : k + 4])
        one.close()
        rows = CellFolder(one.folder).items()
        assert [r["id"] for r in rows] == [str(k) for k in range(12)]
        assert all(r["sha256"] and bool(r["label_sha256"]) == bool(r["index"] % 2) for r in rows)
        found.append((content(one.folder), rows))
    assert len(found[0][0]) == 18
    assert found[0] == found[1] == found[2]


def test_pictures_are_written_side_by_side(tmp_path: Path, monkeypatch) -> None:
    meeting = threading.Barrier(3, timeout=60)  # breaks unless three write at once
    write = stored.write_atomic

    def met(path: Path, data: bytes) -> None:
        meeting.wait()
        write(path, data)

    monkeypatch.setattr(stored, "write_atomic", met)
    one = place(tmp_path)
    with Writers(3, 6) as writers:
        writers.write(one, [Drawn(row(str(k), k), np.zeros((4, 4, 3), np.uint8)) for k in range(6)])


def test_no_more_pictures_wait_than_are_allowed(tmp_path: Path, monkeypatch) -> None:
    gate, most = threading.Semaphore(0), []
    one, writers = place(tmp_path), Writers(2, 3)
    picture = Destination.picture

    def held(self: Destination, drawn: Drawn) -> dict[str, Any]:
        gate.acquire()
        return picture(self, drawn)

    monkeypatch.setattr(Destination, "picture", held)
    submit = writers._pool.submit

    def counted(*args: Any) -> Any:
        most.append(len(writers._waiting))
        for _ in range(len(writers._waiting) > 1):  # the caller will have to wait: let one go
            gate.release()
        return submit(*args)

    monkeypatch.setattr(writers._pool, "submit", counted)
    with writers:
        writers.write(one, drawn(10))
        for _ in range(10):
            gate.release()
    assert max(most) == 2, "with the one that is handed over, three"
    one.close()
    assert len(CellFolder(tmp_path).items()) == 10


def test_one_picture_that_cannot_be_written_costs_itself_alone(tmp_path: Path, monkeypatch) -> None:
    write = stored.write_atomic

    def full(path: Path, data: bytes) -> None:
        if path.name in ("3.png", "7.png"):
            raise OSError(28, "No space left on device", str(path))
        write(path, data)

    monkeypatch.setattr(stored, "write_atomic", full)
    one = place(tmp_path)
    with pytest.raises(OSError, match=r"images/3\.png"):
        all_at_once(one, drawn(6))
    with pytest.raises(OSError, match=r"images/7\.png"):
        all_at_once(one, drawn(10)[6:])
    one.close()
    assert {r["id"] for r in CellFolder(tmp_path).items()} == set("01245689")


def test_a_picture_that_fails_before_its_group_is_handed_over(tmp_path: Path, monkeypatch) -> None:
    write = stored.write_atomic

    def full(path: Path, data: bytes) -> None:
        if path.name == "1.png":
            raise OSError(28, "No space left on device", str(path))
        write(path, data)

    monkeypatch.setattr(stored, "write_atomic", full)
    one, writers = place(tmp_path), Writers(1, 4)
    submit = writers._pool.submit

    def at_once(*args: Any) -> Any:
        future = submit(*args)
        wait([future])
        return future

    monkeypatch.setattr(writers._pool, "submit", at_once)
    with pytest.raises(OSError, match=r"images/1\.png"), writers:
        writers.write(one, drawn(4))
    one.close()
    assert {r["id"] for r in CellFolder(tmp_path).items()} == set("023")


def all_at_once(one: Destination, what: list[Drawn]) -> None:
    with Writers(2, len(what)) as writers:
        writers.write(one, what)


def test_rows_of_written_pictures_do_not_wait_for_others(tmp_path: Path, monkeypatch) -> None:
    """A method of minutes an image: a kill loses the last one alone."""
    monkeypatch.setattr(stored, "_SECONDS", -1.0)  # rows go to disk as they come
    one, writers = place(tmp_path), Writers(1, 50)
    for k, item in enumerate(drawn(3)):
        writers.write(one, [item])
        writers._waiting[-1][1].result()
        assert len(CellFolder(tmp_path).items()) == k
    writers.finish()
    assert len(CellFolder(tmp_path).items()) == 3


# ---- two runs at once, without locks ----------------------------------------------------------


def between(monkeypatch, act: Any) -> None:
    """Call ``act`` once, right before the next file of rows is written: what another process may
    do between a process's reading and its writing."""
    write = stored.write_atomic

    def late(path: Path, data: bytes) -> None:
        monkeypatch.setattr(stored, "write_atomic", write)
        act()
        write(path, data)

    monkeypatch.setattr(stored, "write_atomic", late)


def part(folder: Path, name: str, index: int, **more: Any) -> None:
    write_items(folder / "items" / f"part-{index:06d}-{name}.parquet", [row(name, index, **more)])


def test_rows_that_come_while_others_are_joined_stay(tmp_path: Path, monkeypatch) -> None:
    part(tmp_path, "a", 0)
    merge_items(tmp_path)
    part(tmp_path, "b", 1)

    def other_run() -> None:
        part(tmp_path, "c", 2)
        merge_items(tmp_path)
        part(tmp_path, "d", 3)

    between(monkeypatch, other_run)
    merge_items(tmp_path)
    assert [r["id"] for r in CellFolder(tmp_path).items()] == ["a", "b", "c", "d"]
    merge_items(tmp_path)
    assert [r["id"] for r in CellFolder(tmp_path).items()] == ["a", "b", "c", "d"]
    assert len(list((tmp_path / "items").iterdir())) == 1


def test_a_part_that_is_written_anew_while_it_is_joined_stays(tmp_path: Path, monkeypatch) -> None:
    """Two runs make the same items: the one's row is an error, the other's is not."""
    first, second = place(tmp_path), place(tmp_path)
    first.vouch(row("a", 0, "no memory"))
    first.close()

    def other_run() -> None:
        second.vouch(second.picture(drawn(1)[0]) | {"id": "a"})
        second.close()
        store.write_atomic(CellFolder(tmp_path).image_path("a"), b"")

    between(monkeypatch, other_run)
    merge_items(tmp_path)
    assert [r["error"] for r in CellFolder(tmp_path).items()] == [""]


def test_rows_are_read_again_where_their_files_were_joined_meanwhile(
    tmp_path: Path, monkeypatch
) -> None:
    for k, name in enumerate("abc"):
        part(tmp_path, name, k)
    read, joined = store._read_part, []

    def slow(path: Path) -> Any:
        if not joined:
            joined.append(True)
            merge_items(tmp_path)
        return read(path)

    monkeypatch.setattr(store, "_read_part", slow)
    assert [r["id"] for r in CellFolder(tmp_path).items()] == ["a", "b", "c"]


def test_a_damaged_file_does_not_outlive_the_joining(tmp_path: Path) -> None:
    part(tmp_path, "a", 0)
    (tmp_path / "items" / "all-0.parquet").write_bytes(b"PAR1")
    merge_items(tmp_path)
    assert len(list((tmp_path / "items").iterdir())) == 1
    assert [r["id"] for r in CellFolder(tmp_path).items()] == ["a"]


@pytest.mark.parametrize("names", [("aaaa", "bbbb"), ("bbbb", "aaaa")])
def test_of_two_images_the_row_of_the_one_that_is_there_counts(
    names: tuple[str, str], tmp_path: Path
) -> None:
    one = place(tmp_path)
    old, new = (
        one.picture(Drawn(row("7", 0), np.full((4, 4, 3), v, np.uint8))) for v in (1, 2)
    )  # the second stands on disk
    for name, made in zip(names, (old, new), strict=True):
        write_items(tmp_path / "items" / f"part-000000-{name}.parquet", [made])
    assert [r["sha256"] for r in CellFolder(tmp_path).items()] == [new["sha256"]]
