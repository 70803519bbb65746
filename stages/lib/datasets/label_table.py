"""The table of `csv_table.py`, in a CSV or Parquet file beside or above the images.

column    content
path      of the image, relative to the table's folder, with slashes
target    the class, a name or a number; of a regression, a number. Several numbers: columns target_x, target_y ...
split     optional: train, val or test, or a synonym such as valid
group     optional: rows of one group (a patient, a writer) never fall into two splits
Other columns are ignored. Rows count from 0.
"""

import codecs
import csv
import io
import re
import unicodedata
import warnings
from collections.abc import Callable, Collection
from pathlib import PurePosixPath

import numpy as np
import pandas as pd
from pandas.api.types import is_bool_dtype, is_numeric_dtype, is_object_dtype, is_string_dtype

from stages.lib.core import SPLITS
from stages.lib.core.errors import UserError, reason, some
from stages.lib.datasets.image_files import LabelledFiles, number_classes, same_text
from stages.lib.datasets.kind import REGRESSION
from stages.lib.datasets.layout import SPLIT_NAMES
from stages.lib.datasets.raw import Raw

SUFFIXES = (".csv", ".parquet")


def read_labels(raw: Raw, task: str) -> LabelledFiles:
    """Return the images that the table names, with their targets, parts and groups.

    Raises:
        UserError: there is not exactly one table, or it is not as described above.
    """
    name = find_table(list(raw.checksums))
    table = read_table(raw, name)
    if "path" not in table:
        columns = list(map(str, table.columns))
        remedy = "; separate the cells by commas" if len(columns) == 1 and re.search(r"[;\t|]", columns[0]) else ""
        raise UserError(f"{name}: found no column `path`; it has {some(columns)}{remedy}")
    if not len(table):
        raise UserError(f"{name}: a table without rows; expected one for each image")
    refuse_rows(name, table["path"].isna(), lambda row: "has no path")

    folder = PurePosixPath(name).parent
    images = [(folder / path).as_posix() for path in table["path"]]
    refuse_rows(
        name,
        np.array([image not in raw.checksums for image in images]),
        lambda row: f"names {table['path'][row]}, and there is no such file; {why_missing(images[row], raw.checksums)}",
    )
    refuse_rows(name, pd.Series(images).duplicated(), lambda row: f"names {table['path'][row]} a second time")
    targets, labels = real_numbers(name, table) if task == REGRESSION else class_numbers(name, table)
    if others := len(set(raw.checksums) - set(images) - {name}):
        print(f"left out: {others:,} file(s), not in {name}")
    groups = pd.factorize(table["group"])[0].astype(np.int64) if "group" in table else None
    if groups is not None:
        refuse_rows(name, groups < 0, lambda row: "has no group")
    parts = official_parts(name, table) if "split" in table else ["all"] * len(table)
    return LabelledFiles(images, targets, labels, parts, groups)


def why_missing(path: str, existing: Collection[str]) -> str:
    """Return what is probably wrong with the path of an image that does not exist."""
    if "\\" in path:
        return "write / in place of \\"
    if path.startswith("/") or re.match("[A-Za-z]:", path):
        return "it is absolute, and paths are relative to the table's folder"
    by_look = {unicodedata.normalize("NFC", name).casefold(): name for name in existing}
    if alike := by_look.get(unicodedata.normalize("NFC", path).casefold()):
        how = "case" if unicodedata.normalize("NFC", path) != unicodedata.normalize("NFC", alike) else "Unicode form"
        return f"{alike} differs in {how} alone; give both the same name"
    return "paths are relative to the table's folder"


def find_table(names: list[str]) -> str:
    """Return the name of the one table nearest to the top of the source.

    Raises:
        UserError: there is none, or more than one.
    """
    tables = [name for name in names if name.lower().endswith(SUFFIXES)]
    depths = [name.count("/") for name in tables]
    nearest = [name for name, depth in zip(tables, depths, strict=True) if depth == min(depths)]
    if len(nearest) != 1:
        raise UserError(
            f"the source holds {', '.join(nearest[:5]) or 'no table'}; expected one CSV or Parquet file at its top, "
            "with the images beside it or in folders below it"
        )
    return nearest[0]


def read_table(raw: Raw, name: str) -> pd.DataFrame:
    """Return the table with rows from 0 and empty text as missing; all cells of a CSV are text.

    Raises:
        UserError: pandas cannot read it, or two columns have the same name.
    """
    try:
        content = raw.reader([name])(name)
        if name.lower().endswith(".csv"):
            header = next(csv.reader(io.StringIO(_text(content), newline="")), [])
            with warnings.catch_warnings(action="error"):  # pandas only warns of a row with too many cells
                table = pd.read_csv(
                    io.BytesIO(content), dtype="string", keep_default_na=False, na_values=[""], index_col=False
                )
        else:
            table = pd.read_parquet(io.BytesIO(content)).reset_index(drop=True)
            header = [str(column) for column in table.columns]
            for column in table:
                table[column].tolist()  # Arrow checks that text is UTF-8 only when it is accessed
        for column in {"path", "split", "group"} & set(table.columns):
            table[column] = table[column].astype("string")
        if "group" in table:
            table["group"] = table["group"].map(same_text, na_action="ignore")
        table = table.replace("", pd.NA)
    except ImportError as error:
        raise UserError(f"{name}: Parquet needs pyarrow: pip install pyarrow; or save the table as CSV") from error
    except Exception as error:  # on damaged files pandas and pyarrow raise whatever they come across
        raise UserError(f"{name}: cannot be read as a table ({reason(error)})") from error
    if repeated := sorted({column for column in header if header.count(column) > 1}):
        raise UserError(f"{name}: the column `{repeated[0]}` appears twice")
    return table


def _text(content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        encoding = "UTF-16" if content[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "another encoding"
        raise ValueError(f"it is in {encoding}; save it as UTF-8") from error


def class_numbers(name: str, table: pd.DataFrame) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return class numbers (N,) int64, and the names of the classes.

    Raises:
        UserError: there is no column `target`, or a row lacks a target.
    """
    if "target" not in table:
        raise UserError(f"{name}: found no column `target`, expected the class of each image")
    targets = table["target"].astype(str)
    refuse_rows(name, table["target"].isna() | (targets.str.strip() == ""), lambda row: "has no target")
    return number_classes(targets.tolist())


def real_numbers(name: str, table: pd.DataFrame) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the quantities (N, quantities) float64, and their names.

    Raises:
        UserError: there is no column of targets, or a row lacks a finite number.
    """
    columns = ["target"] if "target" in table else [each for each in map(str, table) if each.startswith("target_")]
    if not columns:
        raise UserError(f"{name}: found no column `target`, nor any that begins with `target_`: the numbers to predict")
    if reserved := {"", "r2", "rows"} & {column.removeprefix("target_") for column in columns}:
        raise UserError(f"{name}: the column `target_{min(reserved)}` needs another name: a metric has this one")
    for column in columns:
        dtype = table[column].dtype
        if not (is_numeric_dtype(dtype) or is_string_dtype(dtype) or is_object_dtype(dtype)) or is_bool_dtype(dtype):
            raise UserError(f"{name}: the column `{column}` holds values of type {dtype}, expected numbers")
    values = table[columns].apply(pd.to_numeric, errors="coerce").to_numpy(np.float64, na_value=np.nan)

    def cell(row: int) -> str:
        column = columns[int((~np.isfinite(values[row])).argmax())]
        given = table[column][row]
        return f"has {'nothing' if pd.isna(given) else f'`{given}`'} as {column}; expected a finite number such as 0.5"

    refuse_rows(name, ~np.isfinite(values).all(1), cell)
    return values, tuple(column.removeprefix("target_") for column in columns)


def official_parts(name: str, table: pd.DataFrame) -> list[str]:
    """Return the column `split`.

    Raises:
        UserError: a row has something else than a split, no row has train, or a group is in two splits.
    """
    given = table["split"].fillna("")
    parts = given.map({each: SPLIT_NAMES.get(each.strip().casefold()) for each in given.unique()})
    refuse_rows(name, parts.isna(), lambda row: f"has the split `{given[row]}`; expected {', '.join(SPLITS)}")
    if not (parts == "train").any():
        raise UserError(f"{name}: no row has the split `train`, so there is nothing to learn from")
    if "group" in table:
        splits = parts.groupby(table["group"]).nunique()
        if (splits > 1).any():
            raise UserError(f"{name}: the group {splits.idxmax()} is in {splits.max()} splits, expected one")
    return parts.tolist()


def refuse_rows(name: str, wrong: "np.ndarray | pd.Series[bool]", problem: Callable[[int], str]) -> None:
    """Refuse a table with wrong rows; the message names the first by its number.

    Raises:
        UserError: a row is wrong.
    """
    if wrong.any():
        rows = np.flatnonzero(wrong)
        more = f" (and {len(rows) - 1:,} more)" if len(rows) > 1 else ""
        raise UserError(f"{name}: row {rows[0]}{more} {problem(int(rows[0]))}")
