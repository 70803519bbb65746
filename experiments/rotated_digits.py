"""An example for a regression: digits turned by random angles, and a table of the angles.

    python -m experiments.rotated_digits FOLDER

In:  data/normalized/, as the last `dvc repro` left it.
Out: FOLDER/digits/*.png, and FOLDER/angles.csv with the columns path, target (degrees, counterclockwise) and split.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from stages.lib import shards
from stages.lib.command_line import Parser
from stages.lib.files import replacing_folder
from stages.lib.stage import UserError, run

NORMALIZED = Path("data/normalized")
MOST_DEGREES = 45


def main() -> None:
    parser = Parser(
        prog="python -m experiments.rotated_digits",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("target", type=Path, metavar="FOLDER", help="where to write; it must not exist yet")
    target = parser.parse_args().target
    if target.exists():
        raise UserError(f"{target}: exists, expected the name of a folder that is not there yet")
    random = np.random.default_rng(0)
    rows = []
    with replacing_folder(target) as folder:
        (folder / "digits").mkdir()
        for split in shards.SPLITS:
            stored = shards.read(NORMALIZED / split)
            for image, row in zip(stored.images(0, len(stored)), stored.labels("index"), strict=True):
                degrees = round(random.uniform(-MOST_DEGREES, MOST_DEGREES), 1)
                path = f"digits/{split}-{row:05}.png"
                turned = Image.fromarray(image[0]).rotate(degrees, Image.Resampling.BILINEAR)
                turned.save(folder / path)
                rows.append({"path": path, "target": degrees, "split": split})
        pd.DataFrame(rows).to_csv(folder / "angles.csv", index=False, lineterminator="\n")
    print(f"{len(rows):,} digits and angles.csv in {target}")


if __name__ == "__main__":
    run(main, arguments=True)
