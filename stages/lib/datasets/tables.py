"""Labels from a table, a CSV or Parquet file beside or above the images.

column    content
path      of the image, from the table's own folder, with slashes
target    the class, a name or a number; or, of a regression, a number. Of several: columns target_x, target_y ...
split     optional: train, val or test
group     optional: rows of one group (a patient, a writer) never fall into two splits
Other columns mean nothing here. Rows count from 0.
"""

import csv
import io
import warnings
from collections.abc import Callable
from pathlib import PurePosixPath

import numpy as np
import pandas as pd
from pandas.api.types import is_bool_dtype, is_numeric_dtype, is_object_dtype, is_string_dtype

from stages.lib.core.errors import UserError, reason
from stages.lib.datasets.labels import REGRESSION, Labelled, numbered
from stages.lib.datasets.raw import Raw

TABLES = (".csv", ".parquet")
SPLITS = ("train", "val", "test")


def labelled(raw: Raw, task: str) -> Labelled:
    """What the table says of the images that it names.

    Raises:
        UserError: there is not exactly one table, or it is not as described above.
    """
    place = the_table(list(raw.sha256))
    table = read(raw, place)
    if "path" not in table:
        raise UserError(f"{place}: found no column `path`; it has {', '.join(map(str, table.columns))}")
    if not len(table):
        raise UserError(f"{place}: a table without rows; expected one for each image")
    refuse_rows(place, table["path"].isna(), lambda row: "has no path")

    folder = PurePosixPath(place).parent
    names = [(folder / path).as_posix() for path in table["path"]]
    refuse_rows(
        place,
        np.array([name not in raw.sha256 for name in names]),
        lambda row: f"names {table['path'][row]}, and there is no such file; paths count from the table's folder",
    )
    refuse_rows(place, pd.Series(names).duplicated(), lambda row: f"names {table['path'][row]} a second time")
    targets, called = real_numbers(place, table) if task == REGRESSION else class_numbers(place, table)
    if others := len(set(raw.sha256) - set(names) - {place}):
        print(f"left out: {others:,} file(s), not in {place}")
    groups = pd.factorize(table["group"])[0].astype(np.int64) if "group" in table else None
    if groups is not None:
        refuse_rows(place, groups < 0, lambda row: "has no group")
    parts = official_parts(place, table) if "split" in table else ["all"] * len(table)
    return Labelled(names, targets, called, parts, groups)


def the_table(names: list[str]) -> str:
    """The one table nearest to the top of the source.

    Raises:
        UserError: there is none, or more than one.
    """
    tables = [name for name in names if name.lower().endswith(TABLES)]
    depths = [name.count("/") for name in tables]
    nearest = [name for name, depth in zip(tables, depths, strict=True) if depth == min(depths)]
    if len(nearest) != 1:
        raise UserError(
            f"the source holds {', '.join(nearest[:5]) or 'no table'}; expected one CSV or Parquet file at its top, "
            "with the images beside it or in folders below it"
        )
    return nearest[0]


def read(raw: Raw, place: str) -> pd.DataFrame:
    """The table, its rows counted from 0, nothing where a text is empty; of a CSV every cell is text.

    Raises:
        UserError: pandas cannot read it, or two columns have one name.
    """
    try:
        content = raw.content(place)
        if place.lower().endswith(".csv"):
            head = next(csv.reader(io.StringIO(content.decode("utf-8-sig"), newline="")), [])
            with warnings.catch_warnings(action="error"):  # a row of too many cells is but a warning of pandas's
                table = pd.read_csv(
                    io.BytesIO(content), dtype="string", keep_default_na=False, na_values=[""], index_col=False
                )
        else:
            table = pd.read_parquet(io.BytesIO(content)).reset_index(drop=True)
            head = [str(name) for name in table.columns]
            for column in table:
                table[column].tolist()  # Arrow looks whether a text is UTF-8 when it is asked for
        for column in {"path", "split", "group"} & set(table.columns):
            table[column] = table[column].astype("string")
        table = table.replace("", pd.NA)
    except ImportError as error:
        raise UserError(f"{place}: Parquet wants a package more: pip install pyarrow; or save it as CSV") from error
    except Exception as error:  # of damaged files pandas and pyarrow raise what they stumble over
        raise UserError(f"{place}: no table that can be read ({reason(error)})") from error
    if twice := sorted({name for name in head if head.count(name) > 1}):
        raise UserError(f"{place}: the column `{twice[0]}` stands twice")
    return table


def class_numbers(place: str, table: pd.DataFrame) -> tuple[np.ndarray, tuple[str, ...]]:
    """Class numbers (N,) and the names of the classes.

    Raises:
        UserError: there is no column `target`, or a row has nothing in it.
    """
    if "target" not in table:
        raise UserError(f"{place}: found no column `target`, expected the class of each image")
    refuse_rows(place, table["target"].isna(), lambda row: "has no target")
    numbers, classes = numbered(table["target"].astype(str).tolist())
    if len(classes) < 2:
        raise UserError(f"{place}: every target is {classes[0]}; expected two classes or more")
    return numbers, classes


def real_numbers(place: str, table: pd.DataFrame) -> tuple[np.ndarray, tuple[str, ...]]:
    """The quantities (N, quantities) float64, and their names.

    Raises:
        UserError: there is no such column, or a row holds no finite number.
    """
    columns = ["target"] if "target" in table else [name for name in map(str, table) if name.startswith("target_")]
    if not columns:
        raise UserError(
            f"{place}: found no column `target`, nor any that begins with `target_`: the numbers to predict"
        )
    if ours := {"", "r2", "rows"} & {name.removeprefix("target_") for name in columns}:
        raise UserError(f"{place}: the column `target_{min(ours)}` needs another name: the metrics have one of that")
    for name in columns:
        kind = table[name].dtype
        if not (is_numeric_dtype(kind) or is_string_dtype(kind) or is_object_dtype(kind)) or is_bool_dtype(kind):
            raise UserError(f"{place}: the column `{name}` holds values of type {kind}, expected numbers")
    values = table[columns].apply(pd.to_numeric, errors="coerce").to_numpy(np.float64, na_value=np.nan)
    refuse_rows(place, ~np.isfinite(values).all(1), lambda row: f"has no finite number as {' and '.join(columns)}")
    return values, tuple(name.removeprefix("target_") for name in columns)


def official_parts(place: str, table: pd.DataFrame) -> list[str]:
    """The column `split`.

    Raises:
        UserError: a row holds something else than a split, none is of train, or a group is in two.
    """
    parts = table["split"].fillna("")
    refuse_rows(place, ~parts.isin(SPLITS), lambda row: f"has the split `{parts[row]}`; expected {', '.join(SPLITS)}")
    if not (parts == "train").any():
        raise UserError(f"{place}: no row has the split `train`, so there is nothing to learn from")
    if "group" in table:
        splits = parts.groupby(table["group"]).nunique()
        if (splits > 1).any():
            raise UserError(f"{place}: the group {splits.idxmax()} is in {splits.max()} splits; one is right")
    return parts.tolist()


def refuse_rows(place: str, wrong: "np.ndarray | pd.Series[bool]", why: Callable[[int], str]) -> None:
    """Say which rows are wrong, the first by its number.

    Raises:
        UserError: any is.
    """
    if wrong.any():
        rows = np.flatnonzero(wrong)
        more = f" (and {len(rows) - 1:,} more)" if len(rows) > 1 else ""
        raise UserError(f"{place}: row {rows[0]}{more} {why(int(rows[0]))}")
