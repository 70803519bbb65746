"""Fuzzing: damaged input is refused or read correctly. It never causes a crash, a hang or a wrong result."""

import ast
import json
import subprocess
import sys

import pytest

from tests.conftest import ROOT, Count, environment


@pytest.mark.torture(quick=1, long=8)
def test_damaged_files_are_refused_or_read_correctly(part: int, torture: bool, count: Count) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "tests.mutations", "2000" if torture else "500", str(part)],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    count("damaged files read", sum(outcome["inputs"] for outcome in results.values()))
    count("damaged files refused", sum(outcome["refused"] for outcome in results.values()))
    assert {name: outcome["first"] for name, outcome in results.items() if outcome["faults"]} == {}


def test_no_stage_unpickles() -> None:
    """No module that unpickles is imported, and `torch.load` and `numpy.load` are called with unpickling disabled."""
    for path in (ROOT / "stages").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                modules = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
                assert not {"pickle", "cPickle", "dill", "joblib", "shelve", "marshal"} & set(modules), path
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("torch.load", "np.load", "numpy.load"):
                options = {option.arg: ast.unparse(option.value) for option in node.keywords}
                assert options.get("weights_only") == "True" or options.get("allow_pickle") == "False", path
