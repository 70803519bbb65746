"""The user's images in folders and archives: all formats and modes, clutter, unreadable files."""

import io
import shutil
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, PngImagePlugin

from stages import cache, download, normalize
from stages.lib.core import SPLITS
from stages.lib.core.errors import UserError
from stages.lib.fetching import sources
from stages.lib.preprocessing import fitting, pillow_image
from stages.lib.preprocessing.decoding import decode
from stages.lib.preprocessing.pillow_image import open_image
from stages.lib.splits import shards
from stages.lib.splits.description import DataDescription
from tests.conftest import Project, set_parameters

SIZE = 8
COLOURS = {"blue": (20, 40, 200), "green": (30, 160, 60), "red": (210, 30, 30)}


def photo(colour: tuple[int, int, int], seed: int, size: tuple[int, int] = (12, 10)) -> Image.Image:
    """Return a noisy image of one colour."""
    noise = np.random.default_rng(seed).integers(-20, 20, (size[1], size[0], 3))
    return Image.fromarray((np.array(colour) + noise).clip(0, 255).astype(np.uint8))


def album(root: Path, *parts: str, images: int = 12) -> Path:
    """Write a folder of images for each colour, below each part if there are any."""
    for part in parts or ("",):
        for colour, rgb in COLOURS.items():
            (root / part / colour).mkdir(parents=True)
            for number in range(images):
                photo(rgb, seed=100 * len(part) + number).save(root / part / colour / f"{number:02}.png")
    return root


def choose(**parameters: object) -> None:
    values: dict[str, object] = {"dataset": "folder", "source": "photos", "image_size": SIZE, **parameters}
    set_parameters(Path("params.yaml"), **values)


def run(**parameters: object) -> None:
    choose(**parameters)
    download.main()
    normalize.main()


def splits() -> tuple[list[str], dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]]:
    """Return the classes, and images, targets and index of each split."""
    stored = {name: shards.read(normalize.NORMALIZED / name) for name in SPLITS}
    return stored["train"].description.classes, {
        name: (split.images(0, len(split)), split.labels("targets"), split.labels("index"))
        for name, split in stored.items()
    }


def files_of_test(root: Path = Path("photos")) -> list[str]:
    """Return the files that the test split names, after a check that each holds the pixels of its row."""
    test = shards.read(normalize.NORMALIZED / "test")
    files = test.files()
    assert files is not None
    for file, image in zip(files, test.images(0, len(test)), strict=True):
        np.testing.assert_array_equal(decode((root / file).read_bytes(), SIZE)[0], image)
    return files


def description() -> DataDescription:
    return shards.read(normalize.NORMALIZED / "train").description


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_for_each_class(folder: Path) -> None:
    album(folder / "photos")
    run()
    classes, stored = splits()
    assert classes == ["blue", "green", "red"]
    rows = np.concatenate([index for _, _, index in stored.values()])
    np.testing.assert_array_equal(np.sort(rows), np.arange(36))
    for images, targets, index in stored.values():
        assert images.shape[1:] == (3, SIZE, SIZE)
        np.testing.assert_array_equal(targets, index // 12)
        for image, target in zip(images, targets, strict=True):
            assert np.abs(image.mean((1, 2)) - list(COLOURS.values())[target]).max() < 8
    names = [f"{colour}/{number:02}.png" for colour in COLOURS for number in range(12)]
    assert files_of_test() == [names[row] for row in stored["test"][2]]


@pytest.mark.parametrize("parts", [("train", "test"), ("train", "val", "test"), ("train", "valid")])
def test_splits_of_the_source_stay_as_they_are(folder: Path, parts: tuple[str, ...]) -> None:
    album(folder / "photos", *parts)
    run()
    _, stored = splits()
    official = {"valid": "val"}
    for part in parts:
        name = official.get(part, part)
        if name != "train":
            assert len(stored[name][0]) == 36
    assert sum(len(images) for images, _, _ in stored.values()) == 36 * len(parts)
    assert len(np.unique(np.concatenate([index for _, _, index in stored.values()]))) == 36 * len(parts)
    files = files_of_test()
    assert len(set(files)) == len(stored["test"][0])
    assert {file.split("/")[0] for file in files} == {"test" if "test" in parts else "train"}


@pytest.mark.parametrize("ending", ["zip", "ZIP", "tar", "tar.gz", "tgz", "tar.bz2", "tar.xz"])
def test_an_archive_gives_the_same_as_its_folder(folder: Path, ending: str) -> None:
    album(folder / "photos")
    run()
    before, rows, files = content(normalize.NORMALIZED), splits()[1]["test"], files_of_test()
    if ending.lower() == "zip":
        with zipfile.ZipFile(f"photos.{ending}", "w") as archive:
            for path in sorted(Path("photos").rglob("*.png")):
                archive.write(path, Path("holiday 2026") / path)  # one folder around everything
    else:
        compression = {"tar": "", "tgz": "gz"}.get(ending, ending.removeprefix("tar."))
        with tarfile.open(f"photos.{ending}", f"w:{compression}") as tar:  # type: ignore[call-overload]
            tar.add("photos")
    shutil.rmtree("photos")
    run(source=f"photos.{ending}")
    after = content(normalize.NORMALIZED)
    assert {name for name in {**before, **after} if before.get(name) != after.get(name)} == {
        "test/00000.safetensors",  # for the names of the files
        "test/split.json",
    }
    for after_array, before_array in zip(splits()[1]["test"], rows, strict=True):
        np.testing.assert_array_equal(after_array, before_array)
    around = "holiday 2026/photos" if ending.lower() == "zip" else "photos"
    assert files_of_test(download.RAW / "files") == [f"{around}/{file}" for file in files]


def test_a_large_folder_is_not_copied_and_gives_the_same(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    album(folder / "photos")
    run()
    before = content(normalize.NORMALIZED)
    monkeypatch.setattr(sources, "LARGE", 1000)
    run()
    assert "left in photos" in capsys.readouterr().out
    assert [path.name for path in download.RAW.rglob("*.png")] == []
    assert content(normalize.NORMALIZED) == before
    photo(COLOURS["red"], 99).save("photos/red/00.png")
    with pytest.raises(UserError, match=r"photos/red/00.png: has changed since it was downloaded; run `dvc repro`"):
        normalize.main()


def test_clutter_and_other_files_are_left_out(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    album(folder / "photos")
    for name in (".DS_Store", "Thumbs.db", "red/.hidden.png", "__MACOSX/red/._00.png"):
        (folder / "photos" / name).parent.mkdir(exist_ok=True, parents=True)
        (folder / "photos" / name).write_bytes(b"clutter")
    (folder / "photos/red/notes.txt").write_text("not an image")
    photo(COLOURS["red"], 1).save(folder / "photos/loose.jpg")
    run()
    classes, stored = splits()
    assert classes == ["blue", "green", "red"]
    assert sum(len(images) for images, _, _ in stored.values()) == 36
    printed = capsys.readouterr().out
    assert "left out: 1 file(s), no image (.txt)" in printed
    assert "3 classes: blue (12), green (12), red (12)\n" in printed
    assert "left out: 1 file(s), in no class folder" in printed


def test_clutter_of_storage_and_systems_is_left_out(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Thumbnails of test images would be training images, and escape the check for duplicates."""
    album(folder / "photos")
    red = photo(COLOURS["red"], 1)
    thumbnail, recycled = "red/@eaDir/00.png/SYNOPHOTO_THUMB_M.jpg", ("#recycle/1.png", "$RECYCLE.BIN/x/1.png")
    for name in (thumbnail, *recycled, "lost+found/1.png"):
        (folder / "photos" / name).parent.mkdir(parents=True)
        red.save(folder / "photos" / name)
    (folder / "photos/red/00.png:Zone.Identifier").write_text("[ZoneTransfer]")
    run()
    assert sum(len(images) for images, _, _ in splits()[1].values()) == 36
    assert "left out" not in capsys.readouterr().out


def test_files_without_extension_are_images_by_their_content(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in sorted(album(folder / "photos").rglob("*.png"))[::2]:
        path.rename(path.with_suffix(""))
    for number in range(9):
        (folder / f"photos/red/notes {number}").write_text("a text")
        (folder / f"photos/red/notes.{'abcdefghi'[number]}").write_text("a text")
    run()
    assert sum(len(images) for images, _, _ in splits()[1].values()) == 36
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("left out")]
    assert lines[0] == "left out: 9 file(s), no image (without extension)"
    assert len(lines) == 6
    assert lines[-1] == "left out: 5 file(s), for 5 other reasons"


def test_links(folder: Path) -> None:
    """A link to a file is the file. One to a folder is refused: DVC would not notice changes behind it."""
    root = album(folder / "photos")
    (root / "red/00.png").rename(folder / "elsewhere.png")
    (root / "red/00.png").symlink_to(folder / "elsewhere.png")
    run()
    assert sum(len(images) for images, _, _ in splits()[1].values()) == 36
    (root / "red/nothing.png").symlink_to(folder / "nothing")
    with pytest.raises(UserError, match="photos/red/nothing.png: a link to nothing; remove it"):
        run()
    (root / "red/nothing.png").unlink()
    for target in (album(folder / "more") / "red", root):
        (root / "yellow").symlink_to(target)
        with pytest.raises(UserError, match="photos/yellow: a link to a folder, where DVC would notice no change; put"):
            run()
        (root / "yellow").unlink()
    (folder / "link").symlink_to(root)
    run(source="link")
    assert sum(len(images) for images, _, _ in splits()[1].values()) == 36


def test_a_single_class_is_refused(folder: Path) -> None:
    shutil.move(album(folder / "all") / "red", folder / "photos/red")
    with pytest.raises(
        UserError, match="data/raw/dataset: all images are of one class, red; expected two classes or more"
    ):
        run()


def test_a_folder_around_the_classes_is_recognized_beside_other_files(folder: Path) -> None:
    album(folder / "photos/Pets")
    (folder / "photos/readme.txt").write_text("who made these")
    (folder / "photos/papers").mkdir()
    (folder / "photos/papers/licence.txt").write_text("free")
    run()
    assert splits()[0] == ["blue", "green", "red"]


def test_files_that_are_no_images_do_not_stop_a_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Images of formats that Pillow does not read do, and the message says how to convert them."""
    root = album(folder / "photos")
    for name in ("a.txt", "b.pdf", "c.mp4", "d.mpg"):
        (root / "red" / name).write_bytes(b"%PDF")
    run()
    assert "left out: 1 file(s), no image (.pdf)" in capsys.readouterr().out
    for name in ("1.heic", "2.HEIC"):
        (root / "red" / name).write_bytes(b"\0\0\0\x18ftypheic" + bytes(99))
    with pytest.raises(UserError) as refused:
        run()
    assert "2 of 38 files cannot be read: red/1.heic, red/2.HEIC (HEIC, which Pillow" in str(refused.value)
    assert "`magick mogrify -format png *.heic`" in str(refused.value)


def test_many_images_are_decoded_by_worker_processes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    album(folder / "photos", images=40)
    photo(COLOURS["red"], 1).convert("L").save(folder / "photos/red/grey.png")
    run()
    _, stored = splits()
    assert sum(len(images) for images, _, _ in stored.values()) == 121
    assert stored["train"][0].shape[1] == 3, "a grey image among coloured ones has three channels"


def test_grey_images_have_one_channel(folder: Path) -> None:
    for path in album(folder / "photos").rglob("*.png"):
        Image.open(path).convert("L").save(path)
    run()
    assert splits()[1]["train"][0].shape[1] == 1


def test_unreadable_files_are_counted_and_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    album(folder / "photos")
    (folder / "photos/red/03.png").write_bytes((folder / "photos/red/03.png").read_bytes()[:100])
    (folder / "photos/blue/07.png").write_text("<html>")
    names = [f"{colour}/{number:02}.png" for colour in COLOURS for number in range(12)]
    with pytest.raises(UserError) as refused:
        run()
    assert "2 of 36 files cannot be read: blue/07.png (no image but a page of HTML or XML)" in str(refused.value)
    assert "red/03.png (" in str(refused.value)
    assert "raise unreadable_allowed, now 0" in str(refused.value)
    with pytest.raises(UserError, match="now 1"):
        run(unreadable_allowed=1)
    run(unreadable_allowed=2)
    assert "skipped: 2 of 36 files cannot be read" in capsys.readouterr().out
    assert sum(len(images) for images, _, _ in splits()[1].values()) == 34
    files = files_of_test()
    assert files == [names[row] for row in splits()[1]["test"][2]]


@pytest.mark.parametrize("dtype", ["uint8", "float16"])
def test_each_shard_names_the_files_of_its_rows(folder: Path, monkeypatch: pytest.MonkeyPatch, dtype: str) -> None:
    monkeypatch.setattr(shards, "SHARD", 1000)  # bytes: 5 images, or 2
    monkeypatch.setattr(fitting, "BLOCK", 3 * 3 * SIZE * SIZE)  # bytes: 3 images
    album(folder / "photos", images=20)
    for file in ("blue/03.png", "green/19.png"):
        (folder / "photos" / file).write_bytes(b"no image")
    run(unreadable_allowed=2, storage_dtype=dtype)
    cache.main()
    files = files_of_test()
    test = shards.read(cache.TENSORS / "test")
    assert len(test.starts) > 3
    assert test.files() == files
    assert [list(COLOURS)[target] for target in test.labels("targets")] == [file.split("/")[0] for file in files]


def empty_class(root: Path) -> None:
    (root / "yellow").mkdir()


def class_of_text(root: Path) -> None:
    (root / "yellow").mkdir()
    (root / "yellow/notes.txt").write_text("none yet")


def only_in_test(root: Path) -> None:
    shutil.rmtree(root / "train/red")


def too_few(root: Path) -> None:
    for path in sorted((root / "red").iterdir())[2:]:
        path.unlink()


@pytest.mark.parametrize(
    ("spoil", "parts", "words"),
    [
        (empty_class, (), "photos/yellow: an empty folder, or only hidden files; put images into it, or remove it"),
        (class_of_text, (), "class folder(s) without an image: yellow; put images into them, or remove them"),
        (only_in_test, ("train", "test"), "no training image of class red; add some"),
        (too_few, (), "class red has 2 rows, which leaves none for val"),
        (
            shutil.rmtree,
            (),
            "photos: found nothing, expected a folder, or an archive (.zip, .tar, .tar.gz, .tgz,",
        ),
    ],
)
def test_a_source_without_enough_images_is_refused_in_one_line(
    folder: Path, spoil: Callable[[Path], None], parts: tuple[str, ...], words: str
) -> None:
    spoil(album(folder / "photos", *parts))
    with pytest.raises(UserError) as refused:
        run()
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_imbalanced_classes_are_reported(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    album(folder / "photos", images=100)
    for path in sorted((folder / "photos/green").iterdir())[9:]:
        path.unlink()
    run()
    assert "imbalanced classes: blue 70 training images, green 6" in capsys.readouterr().out


def test_duplicates_are_counted_and_dropped_on_request(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = album(folder / "photos", "train", "val", "test")
    for number in range(3):
        shutil.copy2(root / f"train/red/{number:02}.png", root / f"test/red/copy {number}.png")
    Image.open(root / "train/blue/05.png").save(root / "val/blue/same pixels.bmp")
    run()
    assert "duplicates: training images also in val: 1, in test: 3\n" in capsys.readouterr().out
    assert description().duplicates == {"val": 1, "test": 3}
    assert len(splits()[1]["train"][0]) == 36
    run(drop_duplicates="true")
    assert "also in val: 1, in test: 3; dropped\n" in capsys.readouterr().out
    stored = splits()[1]
    assert [len(stored[name][0]) for name in ("train", "val", "test")] == [32, 37, 39]
    copies = sorted(file for file in files_of_test() if "copy" in file)
    assert copies == [f"test/red/copy {number}.png" for number in range(3)]
    assert description().duplicates == {"val": 0, "test": 0}
    assert description().origin == {"val": "the source's own", "test": "the source's own"}


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def test_formats_and_modes_of_images() -> None:
    """The same picture in all of them: red above, white below."""
    rgb = Image.new("RGB", (16, 16), "white")
    rgb.paste((255, 0, 0), (0, 0, 16, 8))
    transparent = rgb.convert("RGBA")
    transparent.paste((0, 0, 0, 0), (0, 8, 16, 16))  # transparent, where the others are white
    sideways = Image.Exif()
    sideways[0x0112] = 6  # rotate by 90 degrees clockwise
    kinds = {
        "PNG": saved(rgb, "PNG"),
        "palette": saved(rgb.convert("P"), "GIF"),
        "CMYK": saved(rgb.convert("CMYK"), "JPEG", quality=100),
        "transparent": saved(transparent, "PNG"),
        "transparent palette": saved(transparent.quantize(4), "PNG"),
        "rotated": saved(rgb.rotate(90), "JPEG", quality=100, subsampling=0, exif=sideways),
        "WebP": saved(rgb, "WEBP", lossless=True),
        "TIFF": saved(rgb, "TIFF"),
    }
    for kind, content in kinds.items():
        pixels, grey = decode(content, 16)
        assert not grey, kind
        expected = np.asarray(rgb).transpose(2, 0, 1).astype(int)
        assert np.abs(pixels - expected)[:, [0, 1, 2, 13, 14, 15]].max() <= 8, kind


def test_16_bits_are_scaled_and_32_bits_refused() -> None:
    ramp = np.arange(0, 65536, 256, dtype=np.uint16).reshape(16, 16)
    pixels, grey = decode(saved(Image.fromarray(ramp), "PNG"), 16)
    assert grey
    np.testing.assert_array_equal(pixels[0], np.rint(ramp / 257))
    np.testing.assert_array_equal(pixels[0], pixels[2])
    with pytest.raises(ValueError, match="signed, 32-bit or real pixels from 0 to 65280"):
        decode(saved(Image.fromarray(ramp.astype(np.float32)), "TIFF"), 16)


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
def test_16_bits_of_which_some_are_used(folder: Path, capsys: pytest.CaptureFixture[str], bits: int) -> None:
    """A class is darker than the other; every grey level is there once white is known, and a line says so before."""
    white = 2**bits - 1
    for number, name in enumerate(("dark", "light")):
        (folder / "photos" / name).mkdir(parents=True)
        for row in range(12):
            values = np.random.default_rng(row).integers(0, white // 2, (SIZE, SIZE)) + number * (white // 2 + 2)
            values[0, 0] = white * number
            Image.fromarray(values.astype(np.uint16)).save(folder / "photos" / name / f"{row:02}.png")
    expected = (
        f"dark: the images of 16 bits reach {white:,} of 65,535, which leaves {round(white / 257) + 1} of 256 grey "
        f"levels; if their white is {white:,} ({bits} bits), set max_pixel_value to that\n"
    )
    run()
    assert (expected in capsys.readouterr().out) == (bits < 16)
    run(max_pixel_value=white)
    assert "dark" not in capsys.readouterr().out.replace("dark (", "")
    levels = np.unique(np.concatenate([images for images, _, _ in splits()[1].values()]))
    assert len(levels) > 200
    assert description().max_pixel_value == white
    if bits < 16:
        with pytest.raises(UserError, match=r"light/00.png.* \(a pixel has the value .*, above max_pixel_value"):
            run(max_pixel_value=white // 2)


def test_white_of_a_file_of_16_bits() -> None:
    """A PGM says what its white is; a TIFF may say that white is zero; of colours Pillow reads the upper bits."""
    ramp = np.arange(100).reshape(10, 10)
    header = b"P5 10 10 1023\n"
    picture = open_image(header + (ramp * 10).astype(">u2").tobytes())
    np.testing.assert_array_equal(picture.pixels[0], np.rint(np.rint(ramp * 10 / 1023 * 65535) / 257))
    assert (picture.grey, picture.brightest) == (True, None)
    image = Image.fromarray((ramp * 600).astype(np.uint16))
    straight = saved(image, "TIFF")
    tag = struct.pack("<HHIH", 262, 3, 1, 1)
    assert straight.count(tag) == 1
    inverted = straight.replace(tag, struct.pack("<HHIH", 262, 3, 1, 0))
    np.testing.assert_array_equal(open_image(straight).pixels[0], np.rint(ramp * 600 / 257))
    np.testing.assert_array_equal(open_image(inverted).pixels[0], np.rint((65535 - ramp * 600) / 257))
    assert open_image(straight).brightest == 59400
    colour = png_of_16_bits(np.repeat(ramp[:, :, np.newaxis] * 40, 3, 2))
    assert (open_image(colour).brightest, open_image(colour).brightest_colour) == (None, 3960 // 256)
    with pytest.raises(ValueError, match="colour of 16 bits, for which max_pixel_value 4095 is not supported"):
        open_image(colour, white=4095)


def png_of_16_bits(values: np.ndarray) -> bytes:
    """Return a PNG in colour with 16 bits, which Pillow does not write: (H, W, 3)."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, 2, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def test_dark_colours_of_16_bits_are_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Their white cannot be set: Pillow reads the upper eight bits."""
    for number, path in enumerate(sorted(album(folder / "photos").rglob("*.png"))):
        path.write_bytes(png_of_16_bits(np.random.default_rng(number).integers(0, 1023, (SIZE, SIZE, 3))))
    run()
    told = "dark: the images of 16 bits in colour use 4 of 256 levels; save them scaled to 8 bits\n"
    assert told in capsys.readouterr().out


def test_a_first_page_counts_though_the_next_is_damaged() -> None:
    content = saved(Image.new("L", (8, 8), 200), "TIFF")
    ((at,),) = [struct.unpack("<I", content[4:8])]
    entries = struct.unpack("<H", content[at : at + 2])[0]
    end = at + 2 + 12 * entries  # where the offset of the next page stands
    assert content[end : end + 4] == bytes(4)
    picture = open_image(content[:end] + struct.pack("<I", 4) + content[end + 4 :])
    assert (picture.pages, picture.pixels.min()) == (1, 200)


def test_renamed_splits_are_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    album(folder / "photos", "Train", "seg_test")
    run()
    assert "splits: seg_test is test\n" in capsys.readouterr().out


def test_a_second_page_is_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = album(folder / "photos")
    red = Image.open(root / "red/00.png")
    red.save(root / "red/stack.tif", save_all=True, append_images=[red, red])
    red.save(root / "red/film.gif", save_all=True, append_images=[Image.open(root / "red/01.png")])
    red.save(root / "red/phone.jpg", "MPO", save_all=True, append_images=[red])
    run()
    assert (
        "several pages: 2 file(s), such as red/film.gif with 2; only the first page is used; save the others as files "
        "of their own\n"
    ) in capsys.readouterr().out


def test_a_decompression_bomb_is_unreadable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    monkeypatch.setattr(pillow_image, "MOST_PIXELS", 100)
    for side in (12, 20):  # Pillow itself refuses above twice the limit
        with pytest.raises(ValueError, match="more than 268 million pixels; make it smaller"):
            decode(saved(Image.new("RGB", (side, side)), "PNG"), 4)


def test_limits_of_an_image() -> None:
    """120 million pixels and long comments are sound; a line of pixels would be resized to gigabytes."""
    assert decode(saved(Image.new("1", (12_000, 10_000)), "PNG"), 4)[0].shape == (3, 4, 4)
    comment = PngImagePlugin.PngInfo()
    comment.add_text("comment", "x" * 2_000_000, zip=True)
    assert decode(saved(Image.new("L", (8, 8)), "PNG", pnginfo=comment), 4)[1]
    for size in ((801, 8), (3_000_000, 1), (1, 3_000_000)):
        with pytest.raises(ValueError, match="pixels: one side more than 100 times the other; cut it into pieces"):
            decode(saved(Image.new("1", size), "BMP"), 4)


def test_dvc_notices_changes_of_the_source(fresh: Project) -> None:
    """It is in data/raw, where people put their images; `dvc exp run` empties the outputs before any stage runs."""
    source = album(fresh.root / "data/raw/photos")
    fresh.set(dataset="folder", source="data/raw/photos", image_size=SIZE, epochs=1)
    assert fresh.repro() == ["download", "normalize", "cache", "train", "evaluate"]
    assert fresh.repro() == []
    photo(COLOURS["red"], 77).save(source / "red/00.png")
    assert fresh.repro("normalize") == ["download", "normalize"]
    photo(COLOURS["red"], 78).save(source / "red/another.png")
    assert fresh.repro("normalize") == ["download", "normalize"]
    (source / "red/another.png").unlink()
    assert fresh.repro("cache") == ["cache"], "download and normalize as before: out of DVC's cache"
    (source / "red/readme.txt").write_text("no image")
    assert fresh.repro("cache") == ["download", "normalize"]
    refused = fresh.run("dvc", "exp", "run", "-S", "source=data/raw", fails=True)
    assert "defined as both a dependency and an output" in refused.stderr
    assert len(list(source.rglob("*.png"))) == 36


def test_predictions_name_the_files(fresh: Project, tmp_path: Path) -> None:
    source = album(tmp_path / "photos")
    fresh.set(dataset="folder", source=source, image_size=SIZE, epochs=1, storage_dtype="float16")
    fresh.repro()
    table = fresh.root / "reports/predictions.csv"
    predictions = pd.read_csv(table)
    assert list(predictions) == ["index", "file", "actual", "predicted", "confidence"]
    names = sorted(str(path.relative_to(source)) for path in source.rglob("*.png"))
    assert predictions["file"].tolist() == [names[row] for row in predictions["index"]]
    assert (predictions["file"].str.split("/").str[0] == predictions["actual"]).all()
    fresh.command("card")
    card = (fresh.root / "reports/model_card.md").read_text()
    assert "| file | actual | predicted |" in card
    wrong = predictions[predictions["actual"] != predictions["predicted"]]
    assert all(f"| {file} |" in card for file in wrong.nlargest(3, "confidence")["file"])

    before = table.read_bytes()
    fresh.stage("evaluate", TORCHRUN="--nproc-per-node 2")
    assert table.read_bytes() == before

    file = predictions["file"][0]
    (source / file).rename(source / file.replace(".png", "x.png"))  # keeps its place in the order
    assert fresh.repro() == ["download", "normalize", "cache", "evaluate"], "train does not run"
    assert table.read_bytes() == before.replace(file.encode(), file.replace(".png", "x.png").encode())
    other = next(file for file in names if file not in set(predictions["file"]))
    (source / other).rename(source / other.replace(".png", "x.png"))
    assert fresh.repro() == ["download", "normalize"], "the file is not in the test split"
