"""The model card: models/ + data/tensors/test -> reports/model_card.md

    make card          (python -m commands.card)

In:  the model and the test tensors, of which evaluate has told before; no more is known here than there.
Out: reports/model_card.md, for git, and for whoever is handed the model.
A command and no stage: it would cost each experiment a second and more, and a model that is thrown away needs none. Nor
a part of evaluate: DVC keeps no results for later of a stage with an output in git that is neither metric nor plot.
"""

from stages.lib.core.process import run

import hashlib
import json
import math
from typing import Any

from commands.lib import model_card
from stages.evaluate import REPORTS, Parameters, judged, split_for
from stages.lib.core.errors import UserError, reason
from stages.lib.core.files import write_text
from stages.lib.core.parameters import load
from stages.lib.model import compute, model_file
from stages.lib.model.distributed import SINGLE
from stages.lib.model.inference import outputs_of

CARD = REPORTS / "model_card.md"
METRICS = REPORTS / "metrics.json"
TABLES = [REPORTS / f"{name}.csv" for name in ("classes", "errors", "calibration")]
MADE_OF = [model_file.MODEL.with_suffix(".json"), METRICS, *TABLES, REPORTS / "mistakes.png"]


def main() -> None:
    parameters = load(Parameters)
    network, model = model_file.load(model_file.MODEL)
    device = compute.prepare(model.threads)

    # --- What evaluate found, once more ---
    test = split_for(model)
    found = judged(outputs_of(network.to(device), test, device, SINGLE), test, parameters)
    try:
        told = json.loads(METRICS.read_text(encoding="utf-8"))
    except (ValueError, FileNotFoundError) as error:
        raise UserError(
            f"{METRICS}: missing or damaged ({reason(error)}); `dvc repro --force evaluate` makes it again"
        ) from error
    if not alike(told, found.figures):
        raise UserError(f"{METRICS}: not of the model in {model_file.MODEL}; run `dvc repro`, then `make card`")

    # --- And what that says of the model ---
    try:
        made_of = {str(path): hashlib.md5(path.read_bytes()).hexdigest() for path in MADE_OF}
    except OSError as error:
        raise UserError(f"{error.filename}: {reason(error)}; run `dvc repro`, then `make card`") from error
    weights = sum(weight.numel() for weight in network.parameters())
    write_text(CARD, model_card.written(model, weights, made_of, found))
    print(f"{CARD}: {model.architecture.model} on {model.data.dataset}; {found.sentence}")


def alike(told: Any, found: Any) -> bool:
    """Whether figures are the same but for what another family of processors makes of them."""
    if isinstance(told, dict) and isinstance(found, dict):
        return told.keys() == found.keys() and all(alike(told[name], found[name]) for name in told)
    return isinstance(told, (int, float)) and math.isclose(told, found, rel_tol=0.005, abs_tol=0.005)


if __name__ == "__main__":
    run(main)
