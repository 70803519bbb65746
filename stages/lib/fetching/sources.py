"""A source of one's own, a folder or an archive of one: which of its files count, and bringing them into data/raw/."""

import shutil
from pathlib import Path

from stages.lib.core.errors import UserError
from stages.lib.datasets.archives import ArchiveError, unpack

ARCHIVES = (".zip", ".tar", ".tar.gz")
LARGE = 1 << 30  # bytes: a folder of more is not copied
MOST_FILES = 100_000_000  # in an archive
CLUTTER = {"__MACOSX", "Thumbs.db", "desktop.ini"}  # what systems leave in folders


def bring(source: Path, folder: Path) -> Path:
    """Unpack or copy a source into an empty folder; a large folder is left where it is.

    Returns:
        Where its files are: `folder`, or the source itself.

    Raises:
        UserError: it is neither a folder nor an archive that can be unpacked, or holds no file.
    """
    if source.is_dir():
        names = files_below(source)
        if not names:
            raise UserError(f"{source}: found no files, expected images; params.yaml's `source` names where they are")
        if sum((source / name).stat().st_size for name in names) > LARGE:
            return source
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, folder / name)
    elif source.name.endswith(ARCHIVES):
        try:
            free = shutil.disk_usage(folder).free
            unpack(source, folder, most_bytes=free, most_files=MOST_FILES)
        except ArchiveError as error:
            raise UserError(f"{error}; pack it anew, or name a folder as `source` in params.yaml") from error
    else:
        found = "no folder or archive" if source.exists() else "nothing"
        raise UserError(
            f"{source}: found {found}, expected a folder, or an archive ({', '.join(ARCHIVES)}); "
            "params.yaml's `source` names it"
        )
    return folder


def files_below(root: Path) -> list[str]:
    """The paths of all files below a folder, with slashes, sorted; hidden ones and what systems leave do not count.

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
