"""The user's own source, a folder or an archive: which of its files count, and bringing them into data/raw/."""

import shutil
from pathlib import Path

from stages.lib.core.errors import UserError
from stages.lib.datasets.archives import ArchiveError, unpack
from stages.lib.datasets.raw import FILES, OriginalFiles

ARCHIVES = (".zip", ".tar", ".tar.gz")
LARGE = 1 << 30  # bytes: a larger folder is not copied
MOST_FILES = 100_000_000  # in an archive
CLUTTER = {"__MACOSX", "Thumbs.db", "desktop.ini"}  # left in folders by operating systems


def bring(source: str, folder: Path) -> OriginalFiles:
    """Unpack or copy a source into an empty folder; leave a large folder where it is.

    Raises:
        UserError: the source is neither a folder nor an archive that can be unpacked, or holds no file.
    """
    path = Path(source)
    if path.is_dir():
        names = files_below(path)
        if not names:
            raise UserError(f"{path}: found no files, expected images; params.yaml's `source` names where they are")
        if sum((path / name).stat().st_size for name in names) > LARGE:
            return OriginalFiles(names, path, source)
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path / name, folder / name)
    elif path.name.endswith(ARCHIVES):
        try:
            unpack(path, folder, most_bytes=shutil.disk_usage(folder).free, most_files=MOST_FILES)
        except ArchiveError as error:
            raise UserError(f"{error}; pack it again, or name a folder as `source` in params.yaml") from error
    else:
        what = "no folder or archive" if path.exists() else "nothing"
        raise UserError(
            f"{path}: found {what}, expected a folder, or an archive ({', '.join(ARCHIVES)}); "
            "params.yaml's `source` names it"
        )
    return OriginalFiles(files_below(folder), folder, FILES)


def files_below(root: Path) -> list[str]:
    """Return the paths of all files below a folder, with slashes, sorted; without hidden files and clutter.

    Raises:
        UserError: a folder in it is empty.
    """
    names = []
    for path in sorted(root.rglob("*")):
        relative = path.relative_to(root)
        if any(part.startswith(".") or part in CLUTTER for part in relative.parts):
            continue
        if path.is_file():
            names.append(relative.as_posix())
        elif path.is_dir() and not any(path.iterdir()):
            raise UserError(f"{path}: an empty folder; put images into it, or remove it")
    return sorted(names)
