"""The README's tables against the code."""

import re

import yaml

from stages.lib.datasets import DATASETS
from stages.schema import schema
from tests.conftest import OURS, ROOT

README = (ROOT / "README.md").read_text()


def table(heading: str) -> list[list[str]]:
    """The cells of the first table behind a heading, without its two head lines."""
    lines = README.split(heading, 1)[1].splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("|"))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def test_every_parameter_with_its_default_and_stage() -> None:
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    expected = {key: name for name, stage in stages.items() for key in stage["params"]}
    properties = schema()["properties"]
    rows = table("## Parameters")
    assert {row[0].strip("`"): row[3] for row in rows} == expected
    for row in rows:
        assert yaml.safe_load(row[1].strip("`")) == properties[row[0].strip("`")]["default"]


def test_every_environment_variable() -> None:
    used = set()
    for path in (ROOT / "stages").rglob("*.py"):
        used |= set(re.findall(r'os\.environ\.get\("(\w+)"', path.read_text()))
    listed = {row[0].strip("`") for row in table("is no parameter but an environment variable")}
    assert used == listed == set(OURS)


def test_no_placeholder_is_left() -> None:
    assert not re.findall(r"FRESH_|TODO|FIXME|XXX", README)


def test_every_data_set() -> None:
    assert [row[0].strip("`") for row in table("## Datasets")] == list(DATASETS)


def test_every_report() -> None:
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    written = set()
    for name in ("train", "evaluate"):
        for out in stages[name].get("outs", []) + stages[name]["metrics"] + stages[name]["plots"]:
            written.add(out if isinstance(out, str) else next(iter(out)))
    assert {row[0].strip("`") for row in table("## What comes out")} == written
