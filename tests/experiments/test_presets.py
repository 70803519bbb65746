"""The presets. tests/experiments/test_sweep.py runs one, and a sweep with one."""

import pytest
import yaml

from commands.lib.flat import flat
from experiments.grid import applied
from experiments.presets import PRESETS, overrides, read_preset
from stages.lib.core.errors import UserError
from stages.lib.validation.rules import check_all
from tests.conftest import ROOT, default_parameters

NAMES = list(yaml.safe_load((ROOT / PRESETS).read_text()))


@pytest.mark.parametrize("name", NAMES)
def test_is_valid_with_the_defaults_of_all_other_parameters(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    parameters = yaml.safe_load(default_parameters())
    assert read_preset(name).keys() <= flat(parameters).keys(), "DVC sets only keys that params.yaml has"
    check_all(applied(read_preset(name), parameters))


def test_options_have_the_names_that_dvc_gives_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert {"-S", "augmentation.shift=2", "arithmetic=native", "hidden=[128]"} <= {*overrides(read_preset("cnn"))}


def test_an_unknown_name_lists_the_known_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(UserError, match=f"PRESET: found `acurate`, expected one of {', '.join(NAMES)} "):
        read_preset("acurate")
