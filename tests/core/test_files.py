"""Atomic writes of files and folders."""

import csv
import os
import shutil
from pathlib import Path

import pytest

from stages.lib.core.files import replacing, replacing_folder, write_table, write_text


class Stop(BaseException):
    """Stands for a signal."""


def content(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_file_is_replaced_and_its_folder_made(tmp_path: Path) -> None:
    path = tmp_path / "new folder/figures.json"
    write_text(path, "one\n")
    write_text(path, "two\n")
    assert content(tmp_path) == {"new folder/figures.json": "two\n"}


def test_a_file_is_unchanged_after_a_failed_write(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    write_text(path, "one")
    with pytest.raises(Stop), replacing(path) as temporary:
        temporary.write_text("tw")
        raise Stop
    assert content(tmp_path) == {"figures.json": "one"}


def test_a_read_only_link_is_replaced_and_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("one")
    (tmp_path / "cache").chmod(0o444)
    os.link(tmp_path / "cache", tmp_path / "figures.json")
    write_text(tmp_path / "figures.json", "two")
    assert content(tmp_path) == {"cache": "one", "figures.json": "two"}


def fill(folder: Path, text: str) -> None:
    (folder / "inner").mkdir()
    for name in ("a", "b", "inner/c"):
        (folder / name).write_text(text)


def test_every_cell_of_a_table_is_read_back(tmp_path: Path) -> None:
    cells = ["plain", "a,b", 'a "b"', "a\nb", "a\rb", "a\r\nb", "\r\n", "é 数", " ", ""]
    write_table(tmp_path / "table.csv", {"cell": cells, "number": range(len(cells)), "share": [0.5] * len(cells)})
    with (tmp_path / "table.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [["cell", "number", "share"], *([cell, str(row), "0.5"] for row, cell in enumerate(cells))]
    lines = (tmp_path / "table.csv").read_bytes().split(b"\n")
    assert lines[:3] == [b"cell,number,share", b"plain,0,0.5", b'"a,b",1,0.5']


def test_a_folder_is_replaced(tmp_path: Path) -> None:
    for text in ("one", "two"):
        with replacing_folder(tmp_path / "raw") as folder:
            fill(folder, text)
    assert content(tmp_path) == {"raw/a": "two", "raw/b": "two", "raw/inner/c": "two"}


def test_a_folder_is_unchanged_after_a_failed_write(tmp_path: Path) -> None:
    with replacing_folder(tmp_path / "raw") as folder:
        fill(folder, "one")
    with pytest.raises(Stop), replacing_folder(tmp_path / "raw") as folder:
        fill(folder, "two")
        raise Stop
    assert content(tmp_path) == {"raw/a": "one", "raw/b": "one", "raw/inner/c": "one"}


@pytest.mark.parametrize("step", ["rename", "delete"])
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("killed", [False, True])
def test_a_folder_is_complete_wherever_its_replacement_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, count: int, killed: bool
) -> None:
    """`killed`: the cleanup does not run either, as after SIGKILL; the next run does it."""
    with replacing_folder(tmp_path / "raw") as folder:
        fill(folder, "one")
    module, name = (os, "replace") if step == "rename" else (shutil, "rmtree")
    real, calls = getattr(module, name), 0

    def stopping(*arguments: object, **options: object) -> None:
        nonlocal calls
        calls += 1
        if armed and (calls == count or (killed and calls > count)):
            raise Stop
        real(*arguments, **options)

    armed = False
    monkeypatch.setattr(module, name, stopping)
    with pytest.raises(Stop), replacing_folder(tmp_path / "raw") as folder:
        fill(folder, "two")
        calls, armed = 0, True
    armed = False
    if killed:
        with pytest.raises(Stop), replacing_folder(tmp_path / "raw"):  # the next run, interrupted as well
            raise Stop
    assert content(tmp_path / "raw").keys() == {"a", "b", "inner/c"}
    assert len(set(content(tmp_path / "raw").values())) == 1, "a mixture of both versions"
