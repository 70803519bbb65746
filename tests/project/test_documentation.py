"""README.md and docs/: their tables, links and commands.

The long test runs all commands of all pages, in order, in one fresh clone. The output has to be the one that the page
shows, except for names of experiments, hashes, durations, and all numbers in a line with decimals, which differ between
runs and processors. A line of three dots stands for any lines; a command without output on the page may print any.
"""

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc.utils.hydra import apply_overrides

from commands.docs import ENVIRONMENT, generated
from commands.docs import PAGES as GENERATED
from commands.schema import schema
from stages.lib.core.parameters import read
from stages.lib.datasets.table import DATASETS
from stages.lib.validation.rules import check
from tests.conftest import OURS, ROOT, RUNTIME, STARTED, Project, default_parameters, environment

README = ROOT / "README.md"
PAGES = [
    README,
    *(
        ROOT / f"docs/{name}.md"
        for name in (
            *("parameters", "experiments", "pull_requests", "sharing", "using_the_model", "datasets", "own_data"),
            *("guarantees", "portable", "several_machines", "cluster", "scale", "extending"),
        )
    ),
]
# Commands that the long test does not run, and the reason.
NOT_RUN = {
    r"^README.md: uv ": "installs another Python environment",
    r"dataset=mnist\b|PRESET=recommended": "downloads MNIST",
    r"s3://|: dvc remote modify --local": "needs a bucket; tests/project/test_sharing.py runs an S3 server",
    r"^experiments.md: .*(dvc pull|PART=|umber-esse)": "tests/experiments/test_sweep.py uses two clones",
    r"^cluster.md:": "several processes in the background; tests/stages/test_normalize_on_a_cluster.py starts them",
    r"^experiments.md: (dask |CLUSTER=)": "needs a cluster; tests/experiments/test_cluster.py starts some",
    r"source=scans": "needs the reader's arrays; tests/datasets/test_arrays.py generates some",
    r"^several_machines.md: (export|python)": "several machines; tests/model/test_distributed.py uses two launchers",
}
EXPERIMENT = re.compile(r"\b[a-z]{3,5}-[a-z]{4}\b")  # as DVC names them
FAILS = re.compile(r"\berror: |CONFLICT")


def table(page: str, heading: str) -> list[list[str]]:
    """Return the cells of the first table after a heading, without its two head lines."""
    lines = (ROOT / page).read_text().split(f"{heading}\n", 1)[1].splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("|"))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def test_the_generated_tables_are_current() -> None:
    for page in GENERATED:
        text = (ROOT / page).read_text()
        assert generated(text) == text, "run `make docs` and commit the result"


def test_the_table_of_parameters_is_that_of_params_yaml_and_dvc_yaml() -> None:
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    expected = {key: name for name, stage in stages.items() for key in stage.get("params", [])}
    rows = table("docs/parameters.md", "# Parameters")
    assert {row[0].strip("`"): row[4] for row in rows if "." not in row[0]} == expected
    defaults: dict[str, Any] = {}
    for key, default, *_ in rows:
        name, _, option = key.strip("`").partition(".")
        value = yaml.safe_load(default.strip("`")) if default else {}
        if option:
            defaults[name][option] = value
        else:
            defaults[name] = value
    assert defaults == yaml.safe_load(default_parameters())


def test_the_environment_variables_listed_are_those_that_the_stages_read() -> None:
    code = "".join(path.read_text() for path in (ROOT / "stages").rglob("*.py"))
    assert set(re.findall(r'os\.environ\.get\("(\w+)"', code)) <= ENVIRONMENT.keys()
    assert all(f'"{name}"' in code for name in ENVIRONMENT)
    assert ENVIRONMENT.keys() == set(OURS)


def test_every_data_set_has_its_origin_and_licence() -> None:
    rows = table("docs/datasets.md", "<!-- end -->")
    own = ["folder", "csv", "arrays"]
    assert [row[0].strip("`") for row in rows] == [name for name in DATASETS if name not in own]


def test_every_output_is_described() -> None:
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    written = set()
    for name in ("train", "evaluate"):
        for out in stages[name].get("outs", []) + stages[name]["metrics"] + stages[name]["plots"]:
            written.add(out if isinstance(out, str) else next(iter(out)))
    assert {row[0].strip("`") for row in table("docs/parameters.md", "## What comes out")} == written


def test_every_page_is_listed_and_no_link_is_broken() -> None:
    assert {path.name for path in (ROOT / "docs").glob("*.md")} == {path.name for path in PAGES[1:]}
    for page in PAGES:
        for target in re.findall(r'\]\(([^)]+)\)|src="([^"]+)"', page.read_text()):
            path, _, anchor = "".join(target).partition("#")
            if path.startswith("http"):
                continue
            linked = page.parent / path if path else page
            assert linked.exists(), f"{page.name}: {path}"
            if anchor:
                headings = re.findall(r"^#+ (.*)", linked.read_text(), re.MULTILINE)
                assert anchor in [re.sub(r"[^\w -]", "", text.lower()).replace(" ", "-") for text in headings]


def test_the_readme_is_short() -> None:
    assert len(README.read_text().splitlines()) < 250


def commands(page: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield the commands in the console blocks of a page, each with the output that the page shows."""
    for block in re.findall(r"^```console\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, *lines = part.splitlines()
            yield command, lines


def test_the_pages_name_commands_that_exist() -> None:
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for page in PAGES:
        for name in re.findall(r"`make (\w+)|^\$ make (\w+)", page.read_text(), re.MULTILINE):
            assert "".join(name) in targets, page.name


def test_the_pages_set_parameters_that_exist(tmp_path: Path) -> None:
    """Each value by itself, without the rules across keys: an example may omit the other key."""
    alone: dict[str, Any] = {**schema(), "allOf": [], "same_length": []}
    path = tmp_path / "params.yaml"
    text = "\n".join(page.read_text() for page in PAGES)
    examples = re.findall(r"(?:^\$|`)([^`\n]*-S [^`\n]*)", text, re.MULTILINE)
    settings = [setting for example in examples for setting in re.findall(r"-S ('.*?'|\S+)", example)]
    settings = [setting.strip("'") for setting in settings if not re.search(r"\.\.\.|yours|key=value", setting)]
    assert len(settings) > 80
    for setting in settings:
        path.write_text(default_parameters())
        apply_overrides(path, [re.sub(r"=([^[{]*?),.*", r"=\1", setting)])  # the first value of a grid
        check(read(path), alone)


def stable(line: str) -> str:
    """Return the parts of a line that are the same in every run and on every processor."""
    line = EXPERIMENT.sub("NAME", line)
    line = re.sub(r"\b[0-9a-f]{7,40}\b", "HASH", line)
    line = re.sub(r"file:///\S*/", "file:///", line)
    if re.search(r"\d\.\d", line):
        line = re.sub(r"[-+]?\d[\d.,]*(e-\d+)?", "#", line)
    line = re.sub(r"\d+ (s|min)\b", r"# \1", line)
    return " ".join(line.replace("|", " ").split())


def differences(shown: list[str], printed: list[str], names: dict[str, str]) -> str:
    """Describe the first difference between shown and printed lines; add the names of experiments to `names`."""
    skips, position = False, 0
    for line in filter(str.strip, shown):
        if line == "...":
            skips = True
            continue
        last = len(printed) if skips else position + 1
        at = next((at for at in range(position, min(last, len(printed))) if stable(printed[at]) == stable(line)), None)
        if at is None:
            return f"not printed: {line}\nfrom: " + "\n".join(printed[position:last])
        names |= zip(EXPERIMENT.findall(line), EXPERIMENT.findall(printed[at]), strict=False)
        skips, position = False, at + 1
    return "" if skips or position == len(printed) else "not shown: " + "\n".join(printed[position:])


class Shell:
    """A bash process that runs commands one after another."""

    def __init__(self, folder: Path, variables: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            cwd=folder,
            env=environment() | variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        STARTED.append(self.process)

    def run(self, command: str) -> tuple[int, list[str]]:
        """Run a command and return its exit code and the non-blank lines that it prints on both streams."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(f"{{ {command}\n}} < /dev/null; printf '\\nENDED %s\\n' $?\n".encode())
        self.process.stdin.flush()
        lines = []
        while not (line := self.process.stdout.readline().decode()).startswith("ENDED "):
            assert line, f"the shell ended in {command}"
            if line.strip():
                lines.append(line.rstrip().split("\r")[-1])
        return int(line.split()[1]), lines


@pytest.mark.torture(quick=0, long=1)
def test_the_commands_of_the_pages_print_what_the_pages_show(fresh: Project, tmp_path: Path, part: int) -> None:
    fresh.run("git", "init", "--quiet", "--bare", "--initial-branch=main", str(tmp_path / "origin.git"))
    fresh.run("git", "remote", "add", "origin", str(tmp_path / "origin.git"))
    fresh.run("git", "push", "--quiet", "origin", "main")
    (fresh.root / ".venv").symlink_to(sys.prefix)  # not installed again
    (installed := tmp_path / "installed").touch()
    if RUNTIME.exists():
        (fresh.root / "demo/node_modules").symlink_to(RUNTIME.parent)
    shell = Shell(fresh.root, {"MAKEFLAGS": f"INSTALLED={installed}"})
    names: dict[str, str] = {}
    wrong = []
    for page in PAGES:
        shell.run(f"cd {fresh.root}")
        for command, shown in commands(page):
            if any(re.search(pattern, f"{page.name}: {command}") for pattern in NOT_RUN) or (
                "demo" in command and not RUNTIME.exists()
            ):
                continue
            actual = EXPERIMENT.sub(lambda match: names.get(match[0], match[0]), command)
            code, printed = shell.run(actual)
            shown = [line for line in shown if not line.startswith("Install")]
            problem = differences(shown, printed, names) if shown else ""
            if (code != 0) != any(map(FAILS.search, shown)):
                problem += f"\nexit code {code}: " + "\n".join(printed)
            if problem:
                wrong.append(f"{page.name}: $ {actual}\n{problem}")
            if command.startswith("dvc queue start"):
                wait_for_the_queue(shell)
        shell.run(f"cd {fresh.root}")
        left = [line for line in shell.run("git status --porcelain")[1] if not line.startswith("??")]
        if left:
            wrong.append(f"{page.name} leaves changed files: {left}")
    assert not wrong, "\n\n".join(wrong)


def wait_for_the_queue(shell: Shell) -> None:
    """Wait until DVC's queue is empty."""
    end = time.monotonic() + 240
    while re.search(r"(Queued|Running)$", status := "\n".join(shell.run("dvc queue status")[1]), re.MULTILINE):
        assert time.monotonic() < end, status
        time.sleep(0.2)
