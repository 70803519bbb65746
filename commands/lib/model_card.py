"""The model card: what this run knows of its model, in the sections of Mitchell et al. 2019.

M. Mitchell and others, "Model Cards for Model Reporting", 2019, https://doi.org/10.1145/3287560.3287596. Equal runs
give equal bytes: it holds no time and no commit of its own, but says how to find that out.
"""

import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from commands.lib.markdown import plain, row, table_of
from stages.lib.core.files import printable
from stages.lib.datasets.table import DATASETS
from stages.lib.model.model_file import ModelDescription
from stages.lib.model.networks import NETWORKS
from stages.lib.reporting import metrics
from stages.lib.reporting.evaluation import Judgement, Mistake, Table
from stages.lib.splits.description import DataDescription

MOST_CLASSES = 20  # told of one by one; of more, those that are found least
MOST_MISTAKES = 10
FEW = 30  # test images of a class, whose share says little
MEANING = {
    "accuracy": "share of the test images whose most probable class is the right one",
    "top_5_accuracy": "share whose right class is among the five most probable ones",
    "cross_entropy": "mean cross-entropy, in nats, whatever loss was trained",
    "macro_f1": "mean over the classes of F1, every class with the same weight",
    "calibration_error": "mean gap between confidence and accuracy (Guo et al. 2017)",
    "mae": "mean absolute error, in the unit of the targets",
    "rmse": "root of the mean squared error, in the unit of the targets",
    "r2": "share of the targets' variance that is explained",
}
TOLD_ELSEWHERE = {"accuracy_low", "accuracy_high", "rows"}


def written(model: ModelDescription, weights: int, made_of: dict[str, str], found: Judgement) -> str:
    """The card, in Markdown.

    Args:
        model: its description of itself.
        weights: how many trainable parameters it has.
        made_of: the files that it tells of, and their md5, hex, by which dvc.lock knows them.
        found: how it does on the test split.
    """
    data = model.data
    sections = [
        f"# Model card: {model.architecture.model} on {data.dataset}",
        "Written by `make card`, of what the run knows and of nothing else; in the sections of "
        "[Mitchell et al. 2019](https://doi.org/10.1145/3287560.3287596).",
        "## Model details",
        details(model, weights),
        "### Parameters of the training",
        pairs({f"`{key}`": f"`{json.dumps(value)}`" for key, value in model.parameters.items()}, "parameter", "value"),
        "## Intended use",
        *(use_of_classes(data) if data.classes else use_of_quantities(data)),
        "## Factors",
        *(["The data name one factor, the class; results by class stand below."] if data.classes else []),
        "Who or what the images show, who made them and with which device is not recorded. So it is not known for "
        "which of these the model does better or worse.",
        "## Metrics",
        metrics_table(found, data),
        "Intervals are of 95 %, for the chance of which test images were drawn; another `seed` of the training would "
        f"give another model. {HOW_OF_CLASSES if data.classes else HOW_OF_QUANTITIES}",
        "## Evaluation data",
        f"{found.figures['rows']:,} images of `{data.dataset}`, the test split{came_about(data, 'test')}. They chose "
        "neither the weights nor the epoch. `reports/predictions.csv` names "
        f"the {'file' if 'file' in found.predictions else 'row of the source'} of each.",
        "## Training data",
        f"{model.images['train']:,} images of `{data.dataset}` to learn from, and {model.images['val']:,} others, val"
        f"{came_about(data, 'val')}, to choose the epoch.",
        f"Per channel, pixels between 0 and 1 have mean {numbers(data.mean)} and standard deviation "
        f"{numbers(data.std)}, counted on the training images alone.",
        *(
            f"`{quantity.name}` has mean {number(quantity.mean)} and standard deviation {number(quantity.std)}."
            for quantity in data.quantities
        ),
        "## Quantitative analyses",
        *(of_classes(found) if data.classes else of_quantities(found)),
        *worst(found, "Most confident mistakes" if data.classes else "Largest errors"),
        "## Ethical considerations",
        "The run knows pixels and targets. Whether people are shown or concerned, whether they agreed, and what a "
        "wrong answer would cost, it does not know; who uses the model has to.",
        "## Caveats and recommendations",
        "\n".join(f"- {caveat}" for caveat in caveats(model, found)),
        "## How to reproduce",
        "In a clone, at the commit that brought this file:"
        if data.dataset not in DATASETS or not DATASETS[data.dataset].user_supplied
        else "In a clone, at the commit that brought this file, with the data where `source` in params.yaml says "
        "(`dvc.lock` has their md5):",
        "```console\n$ git checkout $(git log -1 --format=%H -- reports/model_card.md)\n$ make repro\n```",
        f"The weights then have the sha256 `{model.weights_sha256}` on processors of the same family; on others the "
        "last bits may differ. `dvc.lock` has the md5 of every file on the way; this card tells of these:",
        pairs({f"`{path}`": f"`{md5}`" for path, md5 in made_of.items()}, "file", "md5"),
    ]
    return "\n\n".join(sections) + "\n"


def came_about(data: DataDescription, split: str) -> str:
    """Where a split is from, and how many training images are in it as well."""
    if split not in data.origin:
        return ""
    return f" ({data.origin[split]}; {data.duplicates[split]:,} of the training images are in it too, pixel for pixel)"


def use_of_classes(data: DataDescription) -> list[str]:
    """What a classifier is for."""
    more = f", and {len(data.classes) - MOST_CLASSES:,} more" if len(data.classes) > MOST_CLASSES else ""
    return [
        f"To tell {len(data.classes):,} classes apart on images like those of `{data.dataset}`: "
        f"{', '.join(map(plain, data.classes[:MOST_CLASSES]))}{more}. What else it might serve for, nobody has told "
        "the run.",
        "Not for images of anything else: they are given one of these classes as well, perhaps with high confidence.",
    ]


def use_of_quantities(data: DataDescription) -> list[str]:
    """What a regression is for."""
    return [
        f"To predict {', '.join(f'`{quantity.name}`' for quantity in data.quantities)} from images like those of "
        f"`{data.dataset}`. What else it might serve for, nobody has told the run.",
        "Not for images of anything else: they are given a number as well.",
    ]


HOW_OF_CLASSES = (
    "Of shares they are Wilson's, of the cross-entropy the normal distribution's, of macro F1 a bootstrap's; the "
    "calibration error has none, because drawing images anew makes it larger."
)
HOW_OF_QUANTITIES = "They are the normal distribution's, of the absolute and of the squared error."


def details(model: ModelDescription, weights: int) -> str:
    """What it is, as a table."""
    network = model.architecture
    layers = "of torchvision"
    if network.model in NETWORKS:
        what = " ".join((NETWORKS[network.model].__doc__ or "").split("\n\n")[0].split())
        layers = (
            f"hidden layers `{json.dumps(network.hidden)}`, activation `{json.dumps(network.activation)}`, dropout "
            f"`{network.dropout}`. {what}"
        )
    shape = " x ".join(map(str, model.data.shape))
    return pairs(
        {
            "network": f"`{network.model}`, {layers}",
            "trainable parameters": f"{weights:,}",
            "input": f"{shape} pixels, one byte each, standardized by the mean and standard deviation below",
            "output": "a logit per class; of the exported files, its probability"
            if model.data.classes
            else "a standardized number per quantity; of the exported files, one in its own unit",
            "weights": f"`models/model.safetensors`, sha256 `{model.weights_sha256}`",
            "made by": f"version {model.versions.project} of this project, torch {model.versions.torch}, "
            f"CPU threads {model.threads}",
        }
    )


def intervals(found: Judgement, data: DataDescription) -> dict[str, tuple[float, float]]:
    """The 95 % intervals of the figures that have one."""
    if data.classes:
        shares = {name: found.figures[name] for name in ("accuracy", "top_5_accuracy") if name in found.figures}
        rows = len(found.actual)
        of = {"cross_entropy": metrics.mean_interval(found.losses)}
        for name, share in shares.items():
            of[name] = metrics.accuracy_interval(round(share * rows), rows)
        if shares["accuracy"] < 1:  # a bootstrap of nothing but right answers knows no other ones
            of["macro_f1"] = metrics.macro_f1_interval(found.actual, found.predicted, len(data.classes))
        return of
    several = len(data.quantities) > 1
    return {
        f"{quantity.name} {figure}" if several else figure: interval
        for at, quantity in enumerate(data.quantities)
        for figure, interval in metrics.regression_intervals(found.actual[:, at], found.predicted[:, at]).items()
    }


def metrics_table(found: Judgement, data: DataDescription) -> str:
    """Every figure, with its interval if it has one, and what it means."""
    lines = []
    of = intervals(found, data)
    for name, value in flat(found.figures):
        if name not in TOLD_ELSEWHERE:
            low, high = of.get(name, (math.nan, math.nan))
            interval = "" if math.isnan(low + high) else f"{number(low)} to {number(high)}"
            lines.append(row(f"{name}: {MEANING[name.rpartition(' ')[2]]}", number(value), interval))
    return table_of(["metric", "value", "95 % interval"], lines)


def of_classes(found: Judgement) -> list[str]:
    """By class, what is confused with what, and how sure it is."""
    classes = rows_of(found.classes)
    shown = classes if len(classes) <= MOST_CLASSES else sorted(classes, key=found_share)[:MOST_CLASSES]
    lines = []
    for its in shown:
        hits = round(its["recall"] * its["images"]) if its["images"] else 0
        low, high = metrics.accuracy_interval(hits, its["images"]) if its["images"] else (0, 1)
        lines.append(
            row(
                plain(its["class"]),
                its["images"],
                percent(its["recall"]),
                f"{percent(low)} to {percent(high)}",
                percent(its["precision"]),
                percent(its["f1"]),
                f"{plain(its['taken_for'])} ({its['times']})" if its["times"] else "",
            )
        )
    head = ["class", "images", "recall", "95 % interval", "precision", "F1", "most often taken for"]
    sections = ["### By class", table_of(head, lines)]
    if len(shown) < len(classes):
        sections.append(f"The {len(shown)} of {len(classes):,} that are found least; `reports/classes.csv` has all.")

    names = [plain(its["class"]) for its in classes]
    if len(names) <= MOST_CLASSES:
        counts = np.bincount(found.actual * len(names) + found.predicted, minlength=len(names) ** 2)
        matrix = [
            row(name, *(f"**{n}**" if at == said else n or "" for said, n in enumerate(line)))
            for at, (name, line) in enumerate(zip(names, counts.reshape(len(names), -1).tolist(), strict=True))
        ]
        sections += [
            "### Confusion",
            "Rows are what an image is, columns what the model says.",
            table_of(["", *names], matrix),
        ]
    else:
        frequent = [row(plain(its["error"]), its["images"]) for its in rows_of(found.errors)[:MOST_CLASSES]]
        sections += ["### Confusion", table_of(["most frequent", "images"], frequent)]

    bins = [
        row(percent(its["confidence"]), percent(its["accuracy"]), its["rows"]) for its in rows_of(found.calibration)
    ]
    return [*sections, "### Calibration", table_of(["confidence", "right", "images"], bins)]


def of_quantities(found: Judgement) -> list[str]:
    """How large the errors are."""
    lines = [row(its["error"], its["images"]) for its in rows_of(found.errors)]
    return ["### Errors", "Predicted less actual.", table_of(["from", "images"], lines)]


def found_share(its: dict[str, Any]) -> float:
    """Recall of a class, beyond all others where it has no test image."""
    return 2.0 if math.isnan(its["recall"]) else float(its["recall"])


def worst(found: Judgement, heading: str) -> list[str]:
    """The worst errors, as a table, and the picture of them."""
    if not found.mistakes:
        return [f"### {heading}", "None is shown: there is none, or `mistakes_shown` is 0."]
    place = "row of the source" if found.mistakes[0].file is None else "file"
    table = table_of([place, "actual", "predicted"], [mistake_row(each) for each in found.mistakes[:MOST_MISTAKES]])
    return [f"### {heading}", table, f"![{heading}](mistakes.png)"]


def mistake_row(mistake: Mistake) -> str:
    """Which image, what it is, what was predicted and how surely."""
    place = mistake.index if mistake.file is None else plain(printable(mistake.file))
    confidence = "" if mistake.confidence is None else f" ({mistake.confidence:.1%})"
    return row(place, plain(mistake.actual), plain(mistake.predicted) + confidence)


def caveats(model: ModelDescription, found: Judgement) -> Iterable[str]:
    """What follows from the figures."""
    yield (
        "The test images are of the data set that the training images are of. Of images from elsewhere (another "
        "camera, hand or background) these figures say nothing."
    )
    yield "`make predict` brings an image to the geometry and scale of the training; other programs have to as well."
    if not model.data.classes:
        return
    classes = rows_of(found.classes)
    bins = rows_of(found.calibration)
    total = sum(its["rows"] for its in bins)
    gap = sum(its["rows"] * (its["confidence"] - its["accuracy"]) for its in bins) / total
    yield (
        f"On the whole it is {'more' if gap > 0 else 'less'} sure than right: its mean confidence is "
        f"{percent(found.figures['accuracy'] + gap)}, its accuracy {percent(found.figures['accuracy'])}."
    )
    least = min(classes, key=found_share)
    if least["recall"] < 1:
        yield f"It finds {plain(least['class'])} least: {percent(least['recall'])} of {least['images']:,} images."
    if few := [its["class"] for its in classes if its["images"] < FEW]:
        told = f"{', '.join(map(plain, few[:MOST_CLASSES]))}{' ...' if len(few) > MOST_CLASSES else ''}"
        yield f"Classes with fewer than {FEW} test images, too few to judge by: {len(few):,} ({told})."


# --- How things are written ---


def flat(figures: dict[str, Any]) -> Iterable[tuple[str, float]]:
    """Figures by name; of several quantities "NAME mae"."""
    for name, value in figures.items():
        if isinstance(value, dict):
            yield from ((f"{name} {inner}", its) for inner, its in value.items())
        else:
            yield name, value


def rows_of(table: Table) -> list[dict[str, Any]]:
    """The same table by rows."""
    return [dict(zip(table, cells, strict=True)) for cells in zip(*table.values(), strict=True)]


def pairs(cells: dict[str, str], *head: str) -> str:
    """A table of two columns."""
    return "\n".join([row(*(head or ("", ""))), row(":--", ":--"), *(row(*pair) for pair in cells.items())])


def number(value: float) -> str:
    """To four significant digits."""
    return f"{value:.4g}"


def numbers(values: Sequence[float]) -> str:
    """Each to four significant digits."""
    return ", ".join(map(number, values))


def percent(share: float) -> str:
    """Nothing for a share of nothing."""
    return "" if math.isnan(share) else f"{share:.1%}"
