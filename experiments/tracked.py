"""The results that git tracks: the paths of their files, and what dvc.lock records."""

from collections.abc import Iterator, Mapping
from typing import Any

from dvc.utils.serialize import parse_yaml

LOCK = "dvc.lock"
METRICS = "reports/metrics.json"
SUMMARY = "reports/train.json"
CURVES = "reports/train.csv"
PREDICTIONS = "reports/predictions.csv"
CARD = "reports/model_card.md"

Stages = Mapping[str, Mapping[str, Any]]  # stage -> its entry in dvc.lock


def stages_in(lock: str) -> Stages:
    """Parse the text of a dvc.lock; an empty text has no stages."""
    stages: Stages = (parse_yaml(lock, LOCK) or {}).get("stages", {})
    return stages


def md5s(stages: Stages, kind: str) -> Iterator[tuple[str, str, str]]:
    """Yield stage, path and md5 of every recorded dependency (kind "deps") or output ("outs")."""
    for name, stage in stages.items():
        for entry in stage.get(kind, []):
            yield name, entry["path"], entry.get("md5", "")


def output_md5s(stages: Stages) -> dict[str, str]:
    """Map the path of every output to its md5."""
    return {path: md5 for _, path, md5 in md5s(stages, "outs")}


def not_rerun(stages: Stages) -> list[str]:
    """List the inputs, such as `evaluate: models/model.json`, whose stage did not run after the one that wrote them."""
    outputs = output_md5s(stages)
    return [f"{stage}: {path}" for stage, path, md5 in md5s(stages, "deps") if outputs.get(path, md5) != md5]
