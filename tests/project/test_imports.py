"""Each stage imports only the slow packages that it needs."""

import json

import pytest

from tests.conftest import Project

# Packages that take more than a tenth of a second to import, and numpy, which most of them load.
HEAVY = {"PIL", "matplotlib", "numpy", "pandas", "scipy", "sklearn", "torch", "torchvision"}
# With the default data set; others need torchvision or pandas.
EXPECTED = {
    "download": {"numpy"},
    "normalize": {"PIL", "numpy", "pandas"},
    "cache": {"numpy"},
    "train": {"numpy", "torch"},
    "evaluate": {"PIL", "numpy", "torch"},
}
COMPILER = {"torch._dynamo", "torch._inductor"}  # more than a second; torch.optim imports it unless prevented
PROGRAM = """
import json, sys
from stages import {stage}
{stage}.main()
print(json.dumps(sorted(sys.modules)))
"""


@pytest.mark.parametrize("stage", EXPECTED)
def test_a_stage_imports_no_more_than_it_needs(project: Project, stage: str) -> None:
    project.set(epochs=1)
    printed = project.run("python", "-W", "error", "-c", PROGRAM.format(stage=stage)).stdout
    modules = set(json.loads(printed.splitlines()[-1]))
    assert {name.partition(".")[0] for name in modules} & HEAVY == EXPECTED[stage]
    assert not modules & COMPILER
