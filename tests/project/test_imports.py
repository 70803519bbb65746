"""What a stage imports before it computes: the packages that take long, and none of them in vain."""

import json

import pytest

from tests.conftest import Project

# Those that take more than a tenth of a second, and what most others are loaded by.
HEAVY = {"PIL", "matplotlib", "numpy", "pandas", "scipy", "sklearn", "torch", "torchvision"}
# With the data set of the defaults; another one may need torchvision, or pandas, to be read.
WANTED = {
    "download": {"numpy"},
    "normalize": {"PIL", "numpy", "pandas"},
    "cache": {"numpy"},
    "train": {"numpy", "torch"},
    "evaluate": {"PIL", "numpy", "torch"},
}
COMPILER = {"torch._dynamo", "torch._inductor"}  # more than a second; optimizers import it if they are let
PROGRAM = """
import json, sys
from stages import {stage}
{stage}.main()
print(json.dumps(sorted(sys.modules)))
"""


@pytest.mark.parametrize("stage", WANTED)
def test_a_stage_imports_no_more_than_it_needs(project: Project, stage: str) -> None:
    project.set(epochs=1)
    printed = project.run("python", "-W", "error", "-c", PROGRAM.format(stage=stage)).stdout
    modules = set(json.loads(printed.splitlines()[-1]))
    assert {name.partition(".")[0] for name in modules} & HEAVY == WANTED[stage]
    assert not modules & COMPILER
