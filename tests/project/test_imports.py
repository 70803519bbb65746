"""Start-up time: a stage imports a slow package only if it needs it."""

import json

import pytest

from tests.conftest import Project

# Packages that take more than a tenth of a second to import, or through which most of those are imported.
SLOW = {"PIL", "matplotlib", "numpy", "pandas", "scipy", "sklearn", "torch", "torchvision"}
# For the default data set; others may need torchvision or pandas to be read.
EXPECTED = {
    "download": {"numpy"},
    "normalize": {"PIL", "numpy", "pandas"},
    "cache": {"numpy"},
    "train": {"numpy", "torch"},
    "evaluate": {"PIL", "numpy", "torch"},
}
COMPILER = {"torch._dynamo", "torch._inductor"}  # takes more than a second; torch.optim imports it unless prevented
PROGRAM = """
import json, sys
from stages import {stage}
{stage}.main()
print(json.dumps(sorted(sys.modules)))
"""


@pytest.mark.parametrize("stage", EXPECTED)
def test_a_stage_imports_only_the_slow_packages_it_needs(project: Project, stage: str) -> None:
    project.set(epochs=1)
    printed = project.run("python", "-W", "error", "-c", PROGRAM.format(stage=stage)).stdout
    modules = set(json.loads(printed.splitlines()[-1]))
    assert {name.partition(".")[0] for name in modules} & SLOW == EXPECTED[stage]
    assert not modules & COMPILER
