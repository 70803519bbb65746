"""Damaged input leads to a refusal or to the correct result: never to a crash, a hang, or a wrong result."""

import ast
import json
import subprocess
import sys

import pytest

from tests.conftest import ROOT, Count, environment

SENT_BY_THIS_PROJECT = ROOT / "stages/lib/cluster/tasks.py"


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
    count("damaged files read", sum(kind["inputs"] for kind in results.values()))
    count("damaged files refused", sum(kind["refused"] for kind in results.values()))
    assert {name: kind["first"] for name, kind in results.items() if kind["faults"]} == {}


def test_nothing_unpickles() -> None:
    """No import of a module that does, and no `torch.load` or `numpy.load` that may.

    Dask does, on the cluster that the user names. There a worker unpickles what this project has sent.
    """
    for path in (path for folder in ("stages", "commands", "experiments") for path in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                modules = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
                unpickles = {"pickle", "cPickle", "dill", "joblib", "shelve", "marshal"} & set(modules)
                assert not unpickles or path == SENT_BY_THIS_PROJECT, path
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("torch.load", "np.load", "numpy.load"):
                options = {option.arg: ast.unparse(option.value) for option in node.keywords}
                assert options.get("weights_only") == "True" or options.get("allow_pickle") == "False", path
