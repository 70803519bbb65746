"""Unpacking untrusted archives."""

import gzip
import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from stages.lib.datasets.archives import ArchiveError, unpack


def tar(path: Path, *members: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for member in members:
            archive.addfile(member, io.BytesIO(bytes(member.size)))
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, size: int = 0, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname = kind, size, link
    return info


def zipped(path: Path, *names: str, size: int = 1, mode: int = 0) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            archive.writestr(info, bytes(size))
    return path


def unpacked(archive: Path, *, most_bytes: int = 10_000, most_files: int = 3) -> dict[str, int]:
    folder = archive.parent / "inner/out"
    folder.mkdir(parents=True)
    unpack(archive, folder, most_bytes=most_bytes, most_files=most_files)
    return {str(path.relative_to(folder)): path.stat().st_size for path in sorted(folder.rglob("*")) if path.is_file()}


def test_unpacks_files_and_folders(tmp_path: Path) -> None:
    assert unpacked(tar(tmp_path / "a.tar.gz", member("x/y", size=5), member("z"))) == {"x/y": 5, "z": 0}
    (tmp_path / "zip").mkdir()
    assert unpacked(zipped(tmp_path / "zip/a.zip", "x/y", "z")) == {"x/y": 1, "z": 1}
    (tmp_path / "gz").mkdir()
    (tmp_path / "gz/digits.csv.gz").write_bytes(gzip.compress(b"1,2"))
    assert unpacked(tmp_path / "gz/digits.csv.gz") == {"digits.csv": 3}


@pytest.mark.parametrize("name", ["/etc/x", "../x", "a/../../x", "a/..", "..\\x", "C:/x", "C:\\x", "\\x"])
def test_names_that_lead_out_of_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ArchiveError, match="lies outside of the archive's folder"):
        unpacked(tar(tmp_path / "a.tar.gz", member(name, size=5)))
    (tmp_path / "zip").mkdir()
    with pytest.raises(ArchiveError, match="lies outside of the archive's folder"):
        unpacked(zipped(tmp_path / "zip/a.zip", name))
    assert not [path for path in tmp_path.rglob("x") if path.is_file()]


def test_names_with_backslashes_and_colons(tmp_path: Path) -> None:
    """Programs on Windows write backslashes between folders; a time of day is a name outside of Windows."""
    expected = {"a/1.png": 5, "b/12:30.png": 5}
    assert unpacked(tar(tmp_path / "a.tgz", member("a\\1.png", size=5), member("b/12:30.png", size=5))) == expected
    (tmp_path / "zip").mkdir()
    path = tmp_path / "zip/A.ZIP"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("a\\", "a\\1.png", "b/12:30.png"):
            info = zipfile.ZipInfo(name)
            info.filename = name
            archive.writestr(info, b"12345" if name.endswith("png") else b"")
    assert unpacked(path) == expected


def test_a_name_that_is_no_utf_8_is_refused(tmp_path: Path) -> None:
    """DVC could not hash the folder it is in; every later command would fail."""
    with pytest.raises(ArchiveError, match=r"the name 'a/b\\udcff.png' is not UTF-8, which DVC needs; rename the file"):
        unpacked(tar(tmp_path / "a.tar.gz", member("a/b\udcff.png", size=5)))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(tmp_path: Path, kind: bytes) -> None:
    with pytest.raises(ArchiveError, match="`x` is a link or a device"):
        unpacked(tar(tmp_path / "a.tar.gz", member("x", kind, link="y")))
    (tmp_path / "zip").mkdir()
    with pytest.raises(ArchiveError, match="`x` is a link or a device"):
        unpacked(zipped(tmp_path / "zip/a.zip", "x", mode=0o120777))


def test_size_and_count_are_limited(tmp_path: Path) -> None:
    """The archives themselves are small: zeros are compressed to a thousandth."""
    for number, (archive, words) in enumerate(
        [
            (
                tar(tmp_path / "a.tar.gz", member("x", size=6_000), member("y", size=6_000)),
                "`y` is larger than expected",
            ),
            (zipped(tmp_path / "a.zip", "x", "y", size=6_000), "`y` is larger than expected"),
            (tar(tmp_path / "b.tar.gz", *map(member, "wxyz")), "more than 3 files"),
            (zipped(tmp_path / "b.zip", *"wxyz"), "more than 3 files"),
        ]
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        with pytest.raises(ArchiveError, match=words):
            unpacked(archive.rename(folder / archive.name))
    (tmp_path / "c.gz").write_bytes(gzip.compress(bytes(20_000)))
    with pytest.raises(ArchiveError, match="`c` is larger than expected"):
        unpacked(tmp_path / "c.gz")
    assert sum(path.stat().st_size for path in tmp_path.rglob("out/*")) <= 30_000


def test_a_tar_with_a_wrong_gzip_checksum_is_refused(tmp_path: Path) -> None:
    path = tar(tmp_path / "a.tar.gz", member("x", size=5))
    content = path.read_bytes()
    path.write_bytes(content[:-8] + bytes([content[-8] ^ 1]) + content[-7:])
    with pytest.raises(ArchiveError, match=r"a.tar.gz: cannot be unpacked \(CRC check failed"):
        unpacked(path)
    assert list((tmp_path / "inner/out").iterdir()) == []


def test_a_name_of_many_megabytes_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="is larger than expected"):
        unpacked(tar(tmp_path / "a.tar.gz", member("x" * 10_000_000)))


def test_a_file_with_the_name_of_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="a.tar.gz: a file cannot have such a name"):
        unpacked(tar(tmp_path / "a.tar.gz", member("x", tarfile.DIRTYPE), member("x", size=5)))


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.tar.bz2", "a.tar.xz", "a.zip", "a.gz"])
@pytest.mark.parametrize(
    "content",
    [b"", b"x" * 1000, b"PK\x05\x06", gzip.compress(b"x" * 999, mtime=0)[:-9]],
    ids=["empty", "letters", "start of a zip", "cut gzip"],
)
def test_files_that_are_not_archives_are_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    if (name, content) == ("a.gz", b""):  # an empty file is valid gzip
        return
    with pytest.raises(ArchiveError, match=f"{name}: cannot be unpacked"):
        unpacked(tmp_path / name)
