"""The user's own source, a folder or an archive: which of its files count, and bringing them into data/raw/dataset/."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from stages.lib.core.errors import UserError
from stages.lib.datasets.archives import ARCHIVES, ArchiveError, ending_of, unpack
from stages.lib.datasets.bucket import BucketReader, fetch_object, is_bucket, list_objects
from stages.lib.datasets.raw import FILES, OriginalFiles

LARGE = 1 << 30  # bytes: a larger folder is not copied
MOST_FILES = 100_000_000  # in an archive
# Left in folders by macOS, Windows, and the storage of Synology and QNAP, in lower case. Names with a dot in front are
# hidden files.
CLUTTER = {
    *("__macosx", "icon\r", "network trash folder", "temporary items"),
    *("thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "$recycle.bin", "system volume information"),
    *("@eadir", "@tmp", "@sharebin", "#recycle", "#snapshot", "@recycle", "@recently-snapshot", "lost+found"),
}
CLUTTER_ENDINGS = (":zone.identifier", "@synoeastream", "@synoresource")


def bring(source: str, folder: Path, needs_folder: bool = False) -> OriginalFiles:
    """Unpack or copy a source into an empty folder; leave a large folder where it is.

    Args:
        source: a folder or an archive, on a disk or in a bucket.
        folder: an empty one.
        needs_folder: whether a large folder in a bucket has to be copied, too.

    Raises:
        UserError: the source is neither a folder nor an archive that can be unpacked, or holds no file.
    """
    if is_bucket(source):
        return bring_from_bucket(source, folder, needs_folder)
    path = Path(source)
    if path.is_dir():
        names = files_below(path, source)
        if not names:
            raise UserError(f"{path}: found no files, expected images; params.yaml's `source` names where they are")
        if sum((path / name).stat().st_size for name in names) > LARGE:
            return OriginalFiles(names, path, source)
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path / name, folder / name)
    elif path.is_file() and ending_of(path.name):
        unpack_source(path, folder)
    else:
        what = "no folder or archive" if path.exists() else "nothing"
        raise UserError(
            f"{path}: found {what}, expected a folder, or an archive ({', '.join(ARCHIVES)}); "
            "params.yaml's `source` names it"
        )
    return OriginalFiles(files_below(folder, source), folder, FILES)


def bring_from_bucket(source: str, folder: Path, needs_folder: bool) -> OriginalFiles:
    """Do the same for a source in a bucket."""
    if ending_of(source):
        with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
            archive = Path(temporary) / PurePosixPath(source).name
            fetch_object(source, archive)
            unpack_source(archive, folder)
        return OriginalFiles(files_below(folder, source), folder, FILES)
    objects = {
        name: entry for name, entry in list_objects(source).items() if not any(map(_is_clutter, name.split("/")))
    }
    if not objects:
        raise UserError(f"{source}: found no objects, expected images; params.yaml's `source` names where they are")
    files = OriginalFiles(list(objects), folder, FILES)
    if sum(entry.size for entry in objects.values()) > LARGE and not needs_folder:
        return files._replace(recorded_root=source, objects=objects)
    content_of = BucketReader(source, {name: entry.etag for name, entry in objects.items()})
    for name in tqdm(objects, desc="downloading", unit=" files", disable=None):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content_of(name))
    return files


def unpack_source(archive: Path, folder: Path) -> None:
    """Unpack the user's archive.

    Raises:
        UserError: it cannot be unpacked.
    """
    try:
        unpack(archive, folder, most_bytes=shutil.disk_usage(folder).free, most_files=MOST_FILES)
    except ArchiveError as error:
        raise UserError(f"{error}; pack it again, or name a folder as `source` in params.yaml") from error


def files_below(root: Path, source: str) -> list[str]:
    """Return the paths of all files below a folder, with slashes, sorted; without hidden files and clutter.

    Args:
        root: the folder.
        source: what it is to the user: the folder itself, or an archive that was unpacked into it.

    Raises:
        UserError: a folder in it is empty, or is a link: DVC follows none, so changes would go unnoticed.
    """
    names: list[str] = []
    for folder, subfolders, files in visible(root):
        shown = Path(source) / folder.relative_to(root)
        for name in subfolders:
            if (folder / name).is_symlink():
                raise UserError(
                    f"{shown / name}: a link to a folder, where DVC would notice no change; put the folder itself in "
                    "its place"
                )
        if not subfolders and not files and folder != root:
            raise UserError(f"{shown}: an empty folder, or only hidden files; put images into it, or remove it")
        names += [(folder / name).relative_to(root).as_posix() for name in files]
    return sorted(names)


def visible(root: Path, *, links: bool = False) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Walk through a folder as `os.walk` does, without hidden files and clutter.

    Args:
        root: the folder.
        links: whether to follow links to folders.

    Raises:
        UserError: a link leads nowhere, or to a folder that holds it.
        OSError: a folder cannot be read.
    """
    for folder, subfolders, files in os.walk(root, onerror=_raise, followlinks=links):
        subfolders[:] = [name for name in subfolders if not _is_clutter(name)]
        files = [name for name in files if not _is_clutter(name)]
        for path in (Path(folder, name) for name in (*subfolders, *files)):
            if path.is_symlink() and not path.exists():
                raise UserError(f"{path}: a link to nothing; remove it, or put back what it leads to")
            if links and path.is_symlink() and path.resolve() in [above.resolve() for above in path.parents]:
                raise UserError(f"{path}: a link to a folder that holds it; remove it")
        yield Path(folder), subfolders, [name for name in files if Path(folder, name).is_file()]


def _is_clutter(name: str) -> bool:
    return name.startswith(".") or name.lower() in CLUTTER or name.lower().endswith(CLUTTER_ENDINGS)


def _raise(error: OSError) -> None:
    raise error
