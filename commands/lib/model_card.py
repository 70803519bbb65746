"""The model card: the results of one run in the sections of Mitchell et al. 2019, with metadata for model hubs.

The text is in model_card.md.jinja; this module computes the numbers and tables in it. Equal runs give equal bytes: the
card holds no time and no commit, but the command that looks the commit up.

Sources: M. Mitchell and others, "Model Cards for Model Reporting", 2019, https://doi.org/10.1145/3287560.3287596; for
the metadata https://github.com/huggingface/hub-docs/blob/main/modelcard.md.
"""

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined

from commands.lib.flat import flat
from commands.lib.intervals import macro_f1_interval, mean_interval, regression_intervals
from commands.lib.markdown import plain, row, table_of
from stages.lib.core.files import printable
from stages.lib.datasets.table import DATASETS
from stages.lib.model.model_file import Architecture, ModelDescription
from stages.lib.model.networks import NETWORKS
from stages.lib.reporting.metrics import accuracy_interval
from stages.lib.reporting.results import Evaluation, Mistake, Table
from stages.lib.splits.description import DataDescription

TEMPLATE = Path(__file__).with_name("model_card.md.jinja")
MAX_CLASSES = 20  # rows of a table; of more classes, those with the lowest recall
MAX_MISTAKES = 10
MIN_IMAGES = 30  # test images of a class, for an estimate of its recall
MEANING = {
    "accuracy": "share of the test images whose most probable class is the right one",
    "top_5_accuracy": "share whose right class is among the five most probable ones",
    "cross_entropy": "mean cross-entropy, in nats, whatever loss was trained",
    "macro_f1": "mean over the classes of F1, every class with the same weight",
    "calibration_error": "mean gap between confidence and accuracy (Guo et al. 2017)",
    "mae": "mean absolute error, in the unit of the targets",
    "rmse": "root mean squared error, in the unit of the targets",
    "r2": "share of the targets' variance that is explained",
}
HUB_METRICS = {"accuracy": "accuracy", "macro_f1": "f1", "mae": "mae", "r2": "r_squared"}  # ours -> that of a hub


def render(model: ModelDescription, weights: int, checksums: Mapping[str, str], evaluation: Evaluation) -> str:
    """Render the card as Markdown.

    Args:
        model: its description.
        weights: number of trainable parameters.
        checksums: path -> md5, hex, of the files that the card describes, as dvc.lock has them.
        evaluation: of the model on the test split.
    """
    data = model.data
    own_data = data.dataset in DATASETS and DATASETS[data.dataset].user_supplied
    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters |= {"plain": plain, "number": number, "percent": percent, "quoted": quoted, "decimal": decimal}
    context = {
        "model": model,
        "data": data,
        "evaluation": evaluation,
        "weights": weights,
        "network": network_text(model.architecture),
        "parameter_rows": [row(f"`{key}`", f"`{json.dumps(value)}`") for key, value in model.parameters.items()],
        "metrics_table": metrics_table(evaluation, data),
        "hub_metrics": hub_metrics(evaluation),
        "hub_task": "image-classification" if data.classes else "image-regression",
        "own_data": own_data,
        "origin": {split: origin_text(data, split) for split in ("val", "test")},
        "mistakes_table": mistakes_table(evaluation.mistakes[:MAX_MISTAKES]),
        "checksum_rows": [row(f"`{path}`", f"`{md5}`") for path, md5 in checksums.items()],
    }
    context |= classification_context(evaluation, data) if data.classes else regression_context(evaluation, data)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(context)


def hub_metrics(evaluation: Evaluation) -> list[dict[str, Any]]:
    """List the metrics that model hubs have an identifier for."""
    listed = []
    for name, value in flat(evaluation.metrics).items():
        if identifier := HUB_METRICS.get(name.rpartition(".")[2]):
            listed.append({"type": identifier, "name": name, "value": value})
    return listed


def origin_text(data: DataDescription, split: str) -> str:
    """Describe how a split was made and how many training images are in it as well."""
    if split not in data.origin:
        return ""
    return f" ({data.origin[split]}; {data.duplicates[split]:,} training images are in it too, pixel for pixel)"


def network_text(network: Architecture) -> str:
    """Describe the layers of a network."""
    if network.model not in NETWORKS:
        return f"`{network.model}`, of torchvision"
    layers = " ".join((NETWORKS[network.model].__doc__ or "").split("\n\n")[0].split())
    return (
        f"`{network.model}`, hidden layers `{json.dumps(network.hidden)}`, activation "
        f"`{json.dumps(network.activation)}`, dropout `{network.dropout}`. {layers}"
    )


# --- Metrics ---


def metrics_table(evaluation: Evaluation, data: DataDescription) -> str:
    """Format the metrics with their intervals and meanings."""
    lines = []
    known = intervals(evaluation, data)
    for name, value in flat(evaluation.metrics).items():
        quantity, dot, metric = name.rpartition(".")
        if metric in MEANING:
            low, high = known.get(name, (math.nan, math.nan))
            interval = "" if math.isnan(low + high) else f"{number(low)} to {number(high)}"
            lines.append(row(f"{plain(quantity)}{dot}{metric}: {MEANING[metric]}", number(value), interval))
    return table_of(["metric", "value", "95 % interval"], lines)


def intervals(evaluation: Evaluation, data: DataDescription) -> dict[str, tuple[float, float]]:
    """Compute the 95 % intervals of the metrics that have one."""
    actual, predicted = evaluation.actual, evaluation.predicted
    if not data.classes:
        several = len(data.quantities) > 1
        return {
            f"{quantity.name}.{metric}" if several else metric: interval
            for column, quantity in enumerate(data.quantities)
            for metric, interval in regression_intervals(actual[:, column], predicted[:, column]).items()
        }
    known = {"cross_entropy": mean_interval(evaluation.losses)}
    for name in ("accuracy", "top_5_accuracy"):
        if name in evaluation.metrics:
            known[name] = accuracy_interval(round(evaluation.metrics[name] * len(actual)), len(actual))
    if 0 < evaluation.metrics["accuracy"] < 1:  # otherwise all resamples are alike
        known["macro_f1"] = macro_f1_interval(actual, predicted, len(data.classes))
    return known


# --- Results of a classifier, and of a regression ---


def classification_context(evaluation: Evaluation, data: DataDescription) -> dict[str, Any]:
    """Compute what the template shows of a classifier."""
    classes = rows_of(evaluation.classes)
    by_recall = sorted(classes, key=lambda each: (math.isnan(each["recall"]), each["recall"]))
    many = len(classes) > MAX_CLASSES
    few = [each["class"] for each in classes if each["images"] < MIN_IMAGES]
    return {
        "class_count": f"{len(classes):,}",
        "class_names": names_text(data.classes),
        "class_table": class_table(by_recall[:MAX_CLASSES] if many else classes),
        "many_classes": many,
        "confusion": confusion_table(evaluation, max_rows=MAX_CLASSES) if many else confusion_matrix(evaluation, data),
        "calibration_table": calibration_table(evaluation),
        "mean_confidence": float(np.mean([*evaluation.predictions["confidence"]])),
        "lowest": by_recall[0],
        "few_images": f"{len(few):,} ({names_text(few)})" if few else "",
        "min_images": MIN_IMAGES,
    }


def regression_context(evaluation: Evaluation, data: DataDescription) -> dict[str, Any]:
    """Compute what the template shows of a regression."""
    lines = [row(plain(each["error"]), each["images"]) for each in rows_of(evaluation.errors)]
    return {
        "quantity_names": ", ".join(plain(quantity.name) for quantity in data.quantities),
        "errors_table": table_of(["error", "images"], lines),
    }


def class_table(classes: Iterable[Mapping[str, Any]]) -> str:
    """Format recall, precision and F1 of each class."""
    lines = []
    for each in classes:
        images = each["images"]
        low, high = accuracy_interval(round(each["recall"] * images), images) if images else (0, 1)
        lines.append(
            row(
                plain(each["class"]),
                images,
                percent(each["recall"]),
                f"{percent(low)} to {percent(high)}",
                percent(each["precision"]),
                percent(each["f1"]),
                f"{plain(each['taken_for'])} ({each['times']})" if each["times"] else "",
            )
        )
    return table_of(["class", "images", "recall", "95 % interval", "precision", "F1", "most often taken for"], lines)


def confusion_matrix(evaluation: Evaluation, data: DataDescription) -> str:
    """Format the confusion matrix, its diagonal bold."""
    names = list(map(plain, data.classes))
    counts = np.zeros((len(names), len(names)), int)
    np.add.at(counts, (evaluation.actual, evaluation.predicted), 1)
    lines = [
        row(name, *(f"**{count}**" if actual == predicted else count or "" for predicted, count in enumerate(line)))
        for actual, (name, line) in enumerate(zip(names, counts.tolist(), strict=True))
    ]
    return "Rows: actual class. Columns: predicted class.\n\n" + table_of(["", *names], lines)


def confusion_table(evaluation: Evaluation, max_rows: int) -> str:
    """Format the most frequent confusions."""
    lines = [row(plain(each["error"]), each["images"]) for each in rows_of(evaluation.errors)[:max_rows]]
    return table_of(["most frequent", "images"], lines)


def calibration_table(evaluation: Evaluation) -> str:
    """Format confidence and accuracy of each bin."""
    lines = [
        row(percent(each["confidence"]), percent(each["accuracy"]), each["rows"])
        for each in rows_of(evaluation.calibration)
    ]
    return table_of(["confidence", "accuracy", "images"], lines)


def mistakes_table(mistakes: Iterable[Mistake]) -> str:
    """Format the worst errors."""
    lines = []
    source = "row of the source"
    for mistake in mistakes:
        image: object = mistake.index
        if mistake.file is not None:
            source, image = "file", plain(printable(mistake.file))
        confidence = "" if mistake.confidence is None else f" ({mistake.confidence:.1%})"
        lines.append(row(image, plain(mistake.actual), plain(mistake.predicted) + confidence))
    return table_of([source, "actual", "predicted"], lines)


# --- Formats ---


def rows_of(table: Table) -> list[dict[str, Any]]:
    """Transpose a table from columns to rows."""
    return [dict(zip(table, cells, strict=True)) for cells in zip(*table.values(), strict=True)]


def names_text(names: list[str]) -> str:
    """Join the first MAX_CLASSES names, and say how many more there are."""
    more = f", and {len(names) - MAX_CLASSES:,} more" if len(names) > MAX_CLASSES else ""
    return ", ".join(map(plain, names[:MAX_CLASSES])) + more


def number(value: float) -> str:
    """Format a number to four significant digits."""
    return f"{value:.4g}"


def decimal(value: float) -> str:
    """Format a number for YAML, without an exponent: YAML 1.1 reads `1e-05` as text."""
    return np.format_float_positional(value, trim="0")


def quoted(text: str) -> str:
    """Format a text for YAML, in double quotes."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(letter if letter.isprintable() else f"\\U{ord(letter):08x}" for letter in escaped) + '"'


def percent(share: float) -> str:
    """Format a share in percent; NaN as an empty text."""
    return "" if math.isnan(share) else f"{share:.1%}"
