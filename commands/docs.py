"""Write the tables of README.md, docs/parameters.md and docs/datasets.md.

    make docs          (python -m commands.docs)

In:  the schema of params.yaml, the table of data sets, the environment variables below, and the presets with what
     `make bench` measured of them.
Out: in these pages the lines between `<!-- make docs: NAME -->` and `<!-- end -->`. A test keeps them current.
"""

from stages.lib.core.process import run

import json
import re
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from commands.lib.markdown import row
from commands.schema import STAGES, schema
from experiments.layout import assignments
from experiments.presets import all_presets, read_preset
from stages.lib.core.files import write_text
from stages.lib.datasets.table import DATASETS
from stages.lib.validation.messages import choices, expected

PAGES = [Path("README.md"), Path("docs/parameters.md"), Path("docs/datasets.md")]
MARKED = re.compile(r"(?<=<!-- make docs: )(\w+)( -->\n).*?(?=<!-- end -->)", re.DOTALL)
MEASURED = Path("benchmarks/presets.json")
MOST_LISTED = 6  # names in a cell

# Variable -> default, meaning. They do not change the result, or not more than another machine would.
ENVIRONMENT = {
    "DATASET_MIRROR": (
        "none",
        "address (http:// or https://) or folder from which data sets are fetched before their own mirrors are tried; "
        "of a folder the full path, since some experiments run in other folders",
    ),
    "DEVICE": (
        "`cpu`",
        "device of train and evaluate, by torch's name: `cpu`, `cuda`, `cuda:1`. Written for GPUs, but not yet run on "
        "one. Another kind of device gives other last bits",
    ),
    "TORCHRUN": (
        "none",
        "options of PyTorch's launcher, for train and evaluate in [several processes](several_machines.md), such as "
        "`--nproc-per-node 2`. In native arithmetic another number of processes gives other last bits in training",
    ),
    "CLUSTER": (
        "none",
        "address of a [Dask](cluster.md) scheduler, such as `tcp://host:8786`, whose workers run normalize and the "
        "experiments of `make sweep`",
    ),
    "LOADER_WORKERS": (
        "`0`",
        "processes that load batches ahead, in the same order. Rarely worth it: the images are in memory or are read "
        "ahead, and sending them between processes takes longer",
    ),
    "PIPELINE_DEBUG": ("none", "`1` shows the traceback of an error"),
}


def main() -> None:
    for page in PAGES:
        write_text(page, generated(page.read_text(encoding="utf-8")))


def generated(text: str) -> str:
    """Return the text of a page with new tables between the markers."""
    tables = {
        "parameters": parameters,
        "environment": environment,
        "datasets": datasets,
        "presets": presets,
        "settings": settings,
    }
    return MARKED.sub(lambda match: f"{match[1]}{match[2]}{tables[match[1]]()}\n", text)


def parameters() -> str:
    """Return the table of parameters; an option of a mapping is a row, too."""
    properties = schema()["properties"]
    lines = [row("key", "default", "meaning", "values", "reruns from"), row(*["---"] * 5)]
    for stage, module in STAGES.items():
        for key in module.Parameters.model_fields:
            rules = properties[key]
            options = rules.get("properties", {})
            default, allowed = ("", "options:") if options else (code(rules["default"]), values(rules))
            lines.append(row(f"`{key}`", default, rules["description"], allowed, stage))
            for option, value in (rules["default"] if options else {}).items():
                rules = options[option]
                lines.append(row(f"`{key}.{option}`", code(value), rules["description"], values(rules), stage))
    return "\n".join(lines)


def environment() -> str:
    """Return the table of environment variables."""
    lines = [row("variable", "default", "meaning"), row(*["---"] * 3)]
    return "\n".join([*lines, *(row(f"`{name}`", *cells) for name, cells in ENVIRONMENT.items())])


def datasets() -> str:
    """Return the table of data sets."""
    lines = [row("name", "kind", "classes", "download"), row(*["---"] * 3, "--:")]
    for name, dataset in DATASETS.items():
        labels = getattr(dataset, "classes", None)
        if dataset.user_supplied:
            classes = "yours"
        elif labels is None:
            classes = "the names in its files"
        else:
            classes = f"{len(labels)}: {labels[0]} to {labels[-1]}"
        sizes = [file.size for file in getattr(dataset, "files", ())]
        size = f"{sum(sizes) / 1e6:,.0f} MB" if sizes and None not in sizes else ""
        lines.append(row(f"`{name}`", type(dataset).__name__, classes, size))
    return "\n".join(lines)


def presets() -> str:
    """Return the table of presets with what they reach."""
    lines = [row("preset", "for", "accuracy on test, five seeds", "seconds"), row(*["---"] * 2, "--:", "--:")]
    for name, preset in all_presets().items():
        measured = json.loads(MEASURED.read_text(encoding="utf-8"))[name]
        mean, deviation = fmean(measured["accuracies"]), stdev(measured["accuracies"])
        accuracy = f"{mean:.2%} ± {deviation:.2%}".replace("%", " %")
        lines.append(row(f"`{name}`", preset["purpose"], accuracy, f"{measured['seconds']:.1f}"))
    return "\n".join(lines)


def settings() -> str:
    """Return the table of presets with the parameters that they set."""
    lines = [row("preset", "parameters"), row(*["---"] * 2)]
    for name in all_presets():
        lines.append(row(f"`{name}`", ", ".join(f"`{setting}`" for setting in assignments(read_preset(name)))))
    return "\n".join(lines)


def values(rules: dict[str, Any]) -> str:
    """Describe the values that a schema allows."""
    names = choices(rules)
    if not names:
        return expected(rules)
    many = len(names) > MOST_LISTED
    listed = ", ".join(f"`{name}`" for name in names[: MOST_LISTED if many else None])
    more = f" and {len(names) - MOST_LISTED} more in [params.schema.json](../params.schema.json)" if many else ""
    if others := [option for option in rules.get("anyOf", []) if not choices(option)]:
        more += f"; or {', or '.join(map(expected, others))}"
    return f"{listed}{more}"


def code(value: object) -> str:
    """Return a value as it stands in params.yaml."""
    text = f"[{', '.join(value)}]" if isinstance(value, list) and isinstance(value[0], str) else json.dumps(value)
    return f"`{text.strip(chr(34))}`"


if __name__ == "__main__":
    run(main)
