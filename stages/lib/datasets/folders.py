"""Labels from folders: class/image, or train/class/image, val/class/image and test/class/image."""

from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath

from PIL import Image

from stages.lib.core.errors import UserError
from stages.lib.datasets.labels import Labelled, numbered

PARTS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


def labelled(names: Sequence[str]) -> Labelled:
    """The images among the files of a source, their classes and parts.

    Raises:
        UserError: no class has an image, one has none, or one has none to train on.
    """
    paths = [PurePosixPath(name) for name in names]
    while len(tops := {path.parts[0] for path in paths}) == 1 and all(len(path.parts) > 2 for path in paths):
        paths = [path.relative_to(next(iter(tops))) for path in paths]  # an archive of one folder
    divided = "train" in tops and tops <= set(PARTS) | {path.name for path in paths if len(path.parts) == 1}
    images = Image.registered_extensions()
    found: list[str] = []
    labels: list[str] = []
    parts: list[str] = []
    left_out = Counter[str]()
    for name, path in zip(names, paths, strict=True):
        folders = path.parts[1:-1] if divided else path.parts[:-1]
        if path.suffix.lower() not in images:
            left_out[f"no image ({path.suffix or path.name})"] += 1
        elif not folders:
            left_out["in no class folder"] += 1
        else:
            found.append(name)
            labels.append(folders[0])
            parts.append(PARTS[path.parts[0]] if divided else "all")
    for why, count in sorted(left_out.items()):
        print(f"left out: {count:,} file(s), {why}")
    if not found:
        raise UserError(
            "the source holds no image in a class folder; expected class/image.jpg or train/class/image.jpg"
        )
    every = {folders[0] for path in paths if (folders := path.parts[1:-1] if divided else path.parts[:-1])}
    if empty := sorted(every - set(labels)):
        raise UserError(f"class folder(s) without an image: {', '.join(empty)}; put images into them, or remove them")
    return Labelled(found, *numbered(labels), parts, groups=None)
