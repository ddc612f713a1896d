"""YAML files: plain values, no key twice, every fault one line; paths with ~ and variables."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sisbench.core.errors import UserError
from sisbench.core.yaml_file import expanded, parse_yaml, read_yaml


def test_plain_values_come_through() -> None:
    text = "a: 1\nb: [x, 2.5, true, null]\nc: {d: e}\nmerged: {<<: {k: 1}, l: 2}\n"
    assert parse_yaml(text, "x") == {
        "a": 1,
        "b": ["x", 2.5, True, None],
        "c": {"d": "e"},
        "merged": {"k": 1, "l": 2},
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", r"line 3: the key 'a' stands twice \(first in line 1\)"),
        ("m:\n  - {x: 1, x: 1}\n", "line 2: the key 'x'"),
        ("a: [", "is not YAML"),
        ("a: !!python/object/apply:os.system [ls]", "is not YAML"),
        ("a: 2001-99-99", "cannot be read"),
        ("a: &x [*x]", "recursive"),
        ("? [a]\n: b\n", "plain word"),
        ("\x00", "is not YAML"),
        ("a: " + "[" * 3000, "is not YAML|cannot be read"),
        (
            "a: &a [1,1,1,1,1,1,1,1,1]\n"
            + "\n".join(
                f"{n}: &{n} [{','.join([f'*{m}'] * 9)}]" for m, n in zip("abcdefgh", "bcdefghi")
            ),
            "deeper or larger",
        ),
    ],
)
def test_faults_are_one_line(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        parse_yaml(text, "x.yaml")
    assert "\n" not in caught.value.message


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    with pytest.raises(UserError, match="no file"):
        read_yaml(path)
    with pytest.raises(UserError, match="cannot be read"):
        read_yaml(tmp_path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="UTF-8"):
        read_yaml(path)
    path.write_bytes(b"\xef\xbb\xbfa: 1\n")
    assert read_yaml(path) == {"a": 1}
    path.write_bytes(b"#" * (5 << 20))
    with pytest.raises(UserError, match="bytes"):
        read_yaml(path)


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="ab:-[]{}&*!?|>'\"#%@ \n\t0.1,<=~\x00é", max_size=40))
def test_any_text_gives_values_or_one_error(text: str) -> None:
    with suppress(UserError):
        parse_yaml(text, "x")


def test_paths(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DATA", "/data")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert expanded("$DATA/a") == expanded("${DATA}/a") == "/data/a"
    assert expanded("~/a") == str(tmp_path / "a")
    assert expanded("plain/a~b") == "plain/a~b"
    with pytest.raises(UserError, match="DATAX is not set"):
        expanded("$DATAX/a")
    with pytest.raises(UserError, match="home"):
        expanded("~nobody-of-this-name/a")
