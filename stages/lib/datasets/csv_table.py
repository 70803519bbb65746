"""Kind: images that a table labels, a CSV or Parquet file; `label_table.py` describes its columns."""

from typing import ClassVar

from stages.lib.datasets.image_files import decode
from stages.lib.datasets.kind import TASKS, Contents, Download, Reading
from stages.lib.datasets.raw import OriginalFiles, Raw


class CsvTable:
    """The user's image files, and a table of classes or numbers."""

    user_supplied: ClassVar[bool] = True
    tasks: ClassVar[tuple[str, ...]] = TASKS

    def fetch(self, download: Download) -> OriginalFiles:
        """Bring the user's files."""
        return download.bring(False)

    def read(self, raw: Raw, reading: Reading) -> Contents:
        """Decode the images that the table names."""
        from stages.lib.datasets import label_table  # its pandas takes half a second, and other kinds do not need it

        return decode(label_table.read_labels(raw, reading.task), raw, reading)
