"""Losses by name, and what several ranks make of them."""

from itertools import product

import pytest
import torch
from torch import nn

from stages.lib.core.errors import UserError
from stages.lib.model import inference
from stages.lib.model.distributed import Group
from stages.lib.model.tensors import Split
from stages.lib.splits.description import DataDescription
from stages.lib.training import augmentation, losses
from stages.train import validate

TARGETS = torch.tensor([0, 0, 0, 0, 0, 0, 1, 1, 2, 2])


@pytest.mark.parametrize("name", losses.OF_CLASSES)
def test_every_loss_takes_logits_and_class_numbers(name: str) -> None:
    logits = torch.randn(10, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    loss = losses.build(name, {}, TARGETS, 3)(logits, TARGETS)
    loss.backward()
    assert loss.shape == ()
    assert logits.grad is not None
    better = losses.build(name, {}, TARGETS, 3)(logits - logits.grad, TARGETS)
    assert better < loss


@pytest.mark.parametrize("name", losses.OF_QUANTITIES)
def test_every_regression_loss_takes_quantities(name: str) -> None:
    targets = torch.randn(10, 2, generator=torch.Generator().manual_seed(0))
    loss = losses.build(name, {}, targets, 2)
    assert float(loss(targets, targets)) == 0
    assert 0 < float(loss(targets + 0.1, targets)) < float(loss(targets - 0.3, targets))


def test_label_smoothing_spreads_its_share_over_all_classes() -> None:
    logits = torch.tensor([[2.0, 0.0, -1.0]])
    loss = losses.build("CrossEntropyLoss", {"label_smoothing": 0.3}, TARGETS, 3)(logits, torch.tensor([0]))
    targets = torch.tensor([0.8, 0.1, 0.1])  # 0.7 for the class itself, and 0.3 shared by all three
    assert float(loss) == pytest.approx(float(-(targets * logits.log_softmax(1)).sum()))


def test_balanced_weights_give_every_class_the_same_weight_in_the_mean() -> None:
    loss = losses.build("CrossEntropyLoss", {"weight": "balanced"}, TARGETS, 3)
    rows = nn.CrossEntropyLoss(reduction="none")(logits := torch.randn(10, 3), TARGETS)
    by_class = torch.stack([part.mean() for part in rows.split([6, 2, 2])])
    assert float(loss(logits, TARGETS)) == pytest.approx(float(by_class.mean()))
    explicit = losses.build("CrossEntropyLoss", {"weight": [1, 3, 3]}, TARGETS, 3)
    assert float(explicit(logits, TARGETS)) == pytest.approx(float(loss(logits, TARGETS)))


def test_the_val_loss_equals_the_loss_of_all_rows_at_once() -> None:
    description = DataDescription(dataset="x", classes=["a", "b", "c"], shape=(1, 2, 2), mean=[0.0], std=[1.0])
    images = torch.randn(10, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    val = Split(images, TARGETS, torch.arange(10), description, "")
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    loss = losses.build("CrossEntropyLoss", {"weight": [1.0, 2.0, 3.0], "label_smoothing": 0.2}, TARGETS, 3)
    val_loss, _ = validate(network, loss, val, torch.device("cpu"))
    assert val_loss == pytest.approx(float(loss(network(images), TARGETS).detach()), rel=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weight": [1.0, 2.0]}, "weight tensor"),
        ({"weight": "even"}, "rejects {'weight': 'even'}"),
        ({"label_smoothing": 2.0}, "label_smoothing must be between 0.0 and 1.0"),
        ({"label_smoothing": "much"}, "change loss_args"),
    ],
)
def test_a_rejected_option_is_refused_with_one_line(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(UserError) as refused:
        losses.build("CrossEntropyLoss", arguments, TARGETS, 3)
    assert str(refused.value).startswith("params.yaml: CrossEntropyLoss rejects")
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


OPTIONS: dict[str, list[dict[str, object]]] = {
    "CrossEntropyLoss": [{}, {"weight": [0.5, 3.0, 0.0]}, {"weight": [1.0, 2.0, 4.0], "label_smoothing": 0.3}],
    "MultiMarginLoss": [{}, {"margin": 0.5, "weight": [1.0, 0.0, 2.0]}],
    "HuberLoss": [{"delta": 0.5}],
}


@pytest.mark.parametrize(
    ("name", "arguments", "mixes"),
    [(name, arguments, False) for name, options in OPTIONS.items() for arguments in options]
    + [("CrossEntropyLoss", arguments, True) for arguments in OPTIONS["CrossEntropyLoss"]]
    + [("HuberLoss", {}, True)],
    ids=str,
)
def test_the_average_of_the_ranks_gradients_is_that_of_one_process(
    name: str, arguments: dict[str, object], mixes: bool
) -> None:
    """Over ranks and rows, fewer rows than ranks included, in float64; also of classes whose weight is 0."""
    torch.manual_seed(0)
    for ranks, rows in product((1, 2, 3, 4), (1, 2, 3, 5, 8, 33)):
        images = torch.randn(rows, 4, dtype=torch.float64)
        targets = torch.randint(3, [rows]) if name in losses.OF_CLASSES else torch.randn(rows, 3, dtype=torch.float64)
        loss = losses.build(name, arguments, torch.arange(3) if targets.ndim == 1 else targets, 3).double()
        if mixes:
            images, targets = augmentation.mixup(images, targets, 0.4, 3)
        weights = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
        gradients = []
        for rank in range(ranks):
            group = Group(rank, ranks)
            mine = group.rows_of(rows)
            of_rank = losses.for_rank(loss, targets, group)(images[mine] @ weights, targets[mine])
            gradients.append(torch.autograd.grad(of_rank, weights)[0])
        each = getattr(nn, name)(**vars_of(loss), reduction="none")(images @ weights, targets)
        each = each.mean(1) if each.ndim > 1 else each
        count = losses.denominator(loss, targets)
        whole = each.sum() / count if count else each.sum() * 0
        expected = torch.autograd.grad(whole, weights)[0]
        torch.testing.assert_close(sum(gradients) / ranks, expected, msg=f"{ranks} ranks, {rows} rows")


def vars_of(loss: nn.Module) -> dict[str, object]:
    """Return the arguments that a loss was made with."""
    given = {key: getattr(loss, key) for key in ("label_smoothing", "margin", "p", "delta") if hasattr(loss, key)}
    return given | ({"weight": loss.weight} if getattr(loss, "weight", None) is not None else {})


@pytest.mark.parametrize("rows_at_a_time", [1, 3])
def test_a_piece_of_classes_without_weight_does_not_spoil_the_val_loss(
    monkeypatch: pytest.MonkeyPatch, rows_at_a_time: int
) -> None:
    monkeypatch.setattr(inference, "MAX_ROWS", rows_at_a_time)
    description = DataDescription(dataset="x", classes=["a", "b", "c"], shape=(1, 2, 2), mean=[0.0], std=[1.0])
    images = torch.randn(10, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    loss = losses.build("CrossEntropyLoss", {"weight": [0.0, 1.0, 2.0]}, TARGETS, 3)
    val = Split(images, TARGETS, torch.arange(10), description, "")
    val_loss, _ = validate(network, loss, val, torch.device("cpu"))
    assert val_loss == pytest.approx(float(loss(network(images), TARGETS).detach()), rel=1e-6)
    only = Split(images[:6], TARGETS[:6], torch.arange(6), description, "")
    assert validate(network, loss, only, torch.device("cpu"))[0] == 0.0
