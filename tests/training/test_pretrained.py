"""Initial weights from a file."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from stages.lib.core.errors import UserError
from stages.lib.model import networks
from stages.lib.training import pretrained

SHAPE = (1, 8, 8)


def small(outputs: int = 3, shape: tuple[int, int, int] = SHAPE, hidden: int = 6, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return networks.build("mlp", shape=shape, outputs=outputs, hidden=[hidden, 5], activation="relu", dropout=0.0)


def load(network: nn.Module, path: Path) -> None:
    pretrained.load(network, path, hashlib.sha256(path.read_bytes()).hexdigest())


@pytest.mark.parametrize("save", [torch.save, safetensors.torch.save_file])
def test_weights_are_loaded_from_both_formats(tmp_path: Path, save: Callable[..., None]) -> None:
    source, network = small(seed=1), small(seed=2)
    path = tmp_path / ("a.safetensors" if save is safetensors.torch.save_file else "a.pth")
    save(source.state_dict(), path)
    load(network, path)
    images = torch.randn(4, *SHAPE)
    assert torch.equal(network(images), source(images))


def test_the_sha256_may_be_in_upper_case(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save(small().state_dict(), path)
    pretrained.load(small(), path, hashlib.sha256(path.read_bytes()).hexdigest().upper())


@pytest.mark.parametrize(("change", "fresh"), [({"outputs": 7}, "layers.7"), ({"shape": (3, 8, 8)}, "layers.1")])
def test_a_first_or_last_layer_of_another_shape_keeps_its_fresh_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, int], fresh: str
) -> None:
    path = tmp_path / "a.pth"
    source, network = small(seed=1), small(seed=2, **change)  # type: ignore[arg-type]
    torch.save(source.state_dict(), path)
    before = {name: weight.clone() for name, weight in network.state_dict().items()}
    load(network, path)
    for name, weight in network.state_dict().items():
        same_shape = weight.shape == source.state_dict()[name].shape
        assert torch.equal(weight, source.state_dict()[name] if same_shape else before[name])
        assert same_shape or name.startswith(fresh)
    assert f"; fresh: {fresh}" in capsys.readouterr().out


def test_torchvision_weights_are_loaded_for_other_classes_and_channels(tmp_path: Path) -> None:
    """The files of torchvision are for 1000 classes and three channels."""
    path = tmp_path / "shufflenet.pth"
    torch.manual_seed(0)
    source = networks.build(
        "shufflenet_v2_x0_5", shape=(3, 32, 32), outputs=1000, hidden=[], activation="relu", dropout=0
    )
    torch.save(source.state_dict(), path)
    network = networks.build(
        "shufflenet_v2_x0_5", shape=(1, 32, 32), outputs=4, hidden=[], activation="relu", dropout=0
    )
    load(network, path)
    loaded, original = network.state_dict(), source.state_dict()
    different = {name for name in loaded if not torch.equal(loaded[name].float(), original[name].float())}
    assert different == {"conv1.0.weight", "fc.weight", "fc.bias"}


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "model."])
def test_names_with_a_wrapper_in_front_are_the_network_s(tmp_path: Path, prefix: str) -> None:
    """Of DataParallel, torch.compile, and modules that keep the network as an attribute."""
    source, network = small(seed=1), small(seed=2)
    torch.save({f"{prefix}{name}": weight for name, weight in source.state_dict().items()}, tmp_path / "a.pth")
    load(network, tmp_path / "a.pth")
    assert all(map(torch.equal, network.state_dict().values(), source.state_dict().values()))


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model"])
def test_a_checkpoint_with_other_things_beside_the_weights(tmp_path: Path, key: str) -> None:
    source, network = small(seed=1), small(seed=2)
    optimizer = torch.optim.Adam(source.parameters()).state_dict()
    torch.save({"epoch": 3, key: source.state_dict(), "optimizer": optimizer}, tmp_path / "a.pth")
    load(network, tmp_path / "a.pth")
    assert all(map(torch.equal, network.state_dict().values(), source.state_dict().values()))


def test_files_that_do_not_fit_are_refused_with_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"

    def assert_refused(content: object, message: str) -> None:
        torch.save(content, path)
        with pytest.raises(UserError) as error:
            load(small(), path)
        assert message in str(error.value)
        assert "\n" not in str(error.value)

    assert_refused(
        small(hidden=9).state_dict(), "is of another model, or of images of another size: layers.4.weight is (5, 9)"
    )
    assert_refused({"a": torch.zeros(1)}, "is of another model: has a (1 too many)")
    assert_refused({}, "is of another model: has no layers.1.bias (6 missing)")
    deeper = networks.build("mlp", shape=SHAPE, outputs=3, hidden=[6, 5, 5], activation="relu", dropout=0.0)
    assert_refused(deeper.state_dict(), "is of another model: has layers.10.bias (2 too many)")
    sparse = {name: weight.to_sparse() for name, weight in small().state_dict().items()}
    assert_refused(sparse, "holds weights that cannot be loaded")
    assert_refused({"module.a": torch.zeros(1)}, "is of another model: has module.a (1 too many)")
    assert_refused({"model": {"a": 1}}, "no weights that can be read; expected tensors by name")
    assert_refused({"a": 1}, "no weights that can be read; expected tensors by name")
    assert_refused(small(), "no weights that can be read")  # a module, which would have to be unpickled
    path.write_bytes(b"\x00" * 100)
    with pytest.raises(UserError, match="no weights that can be read"):
        load(small(), path)
    with pytest.raises(UserError, match=r"has sha256 .*, expected 00 \(`weights.sha256` in params.yaml\)"):
        pretrained.load(small(), path, "00")
    with pytest.raises(UserError, match="b.pth: No such file or directory; set `weights.file` in params.yaml"):
        pretrained.load(small(), tmp_path / "b.pth", "00")
