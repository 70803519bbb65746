"""The model card: models/ + data/tensors/test -> reports/model_card.md

    make card          (python -m commands.card)

In:  the model and the test tensors, to recompute what evaluate reported; reports/, to compare with it.
Out: reports/model_card.md, for git and for whoever receives the model.
A command, not a stage: it takes a second, and most experiments need no card. Not part of evaluate either: an uncached
output that is neither a metric nor a plot disables DVC's run cache.
"""

from stages.lib.core.process import run

import hashlib
import json
import math
from typing import Any

from commands.lib import model_card
from stages.lib.core.errors import UserError, reason
from stages.lib.core.files import write_text
from stages.lib.core.parameters import load
from stages.lib.model import compute, model_file
from stages.lib.model.distributed import SINGLE
from stages.lib.model.inference import outputs_of
from stages.lib.reporting.evaluation import REPORTS, Parameters, evaluate, read_test_split

CARD = REPORTS / "model_card.md"
METRICS = REPORTS / "metrics.json"
TABLES = [REPORTS / f"{name}.csv" for name in ("classes", "errors", "calibration")]
DESCRIBED = [model_file.MODEL.with_suffix(".json"), METRICS, *TABLES, REPORTS / "mistakes.png"]


def main() -> None:
    parameters = load(Parameters)
    network, model = model_file.load(model_file.MODEL)
    device = compute.prepare(model.threads, model.arithmetic)

    # --- Evaluate again, and compare with reports/metrics.json ---
    test = read_test_split(model)
    outputs = outputs_of(network.to(device), test, device, SINGLE, model.arithmetic)
    evaluation = evaluate(outputs, test, bins=parameters.calibration_bins, max_mistakes=parameters.mistakes_shown)
    try:
        reported = json.loads(METRICS.read_text(encoding="utf-8"))
    except (ValueError, FileNotFoundError) as error:
        raise UserError(
            f"{METRICS}: missing or damaged ({reason(error)}); `dvc repro --force evaluate` makes it again"
        ) from error
    if not agree(reported, evaluation.metrics):
        raise UserError(f"{METRICS}: not of the model in {model_file.MODEL}; run `dvc repro`, then `make card`")

    # --- Write the card ---
    try:
        checksums = {str(path): hashlib.md5(path.read_bytes()).hexdigest() for path in DESCRIBED}
    except OSError as error:
        raise UserError(f"{error.filename}: {reason(error)}; run `dvc repro`, then `make card`") from error
    weights = sum(parameter.numel() for parameter in network.parameters())
    write_text(CARD, model_card.render(model, weights, checksums, evaluation))
    print(f"{CARD}: {model.architecture.model} on {model.data.dataset}; {evaluation.summary}")


def agree(reported: Any, computed: Any) -> bool:
    """Whether metrics are equal up to the rounding of another family of processors."""
    if isinstance(reported, dict) and isinstance(computed, dict):
        return reported.keys() == computed.keys() and all(agree(reported[name], computed[name]) for name in reported)
    return isinstance(reported, (int, float)) and math.isclose(reported, computed, rel_tol=0.005, abs_tol=0.005)


if __name__ == "__main__":
    run(main)
