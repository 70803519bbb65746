"""The user's images in folders and archives: all formats and modes, clutter, unreadable files."""

import io
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from stages import cache, download, normalize
from stages.lib.core import SPLITS
from stages.lib.core.errors import UserError
from stages.lib.fetching import sources
from stages.lib.preprocessing.decoding import decode
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


@pytest.mark.parametrize("ending", ["zip", "tar", "tar.gz"])
def test_an_archive_gives_the_same_as_its_folder(folder: Path, ending: str) -> None:
    album(folder / "photos")
    run()
    before, rows, files = content(normalize.NORMALIZED), splits()[1]["test"], files_of_test()
    if ending == "zip":
        with zipfile.ZipFile("photos.zip", "w") as archive:
            for path in sorted(Path("photos").rglob("*.png")):
                archive.write(path, Path("holiday 2026") / path)  # one folder around everything
    else:
        with tarfile.open(f"photos.{ending}", "w:gz" if ending == "tar.gz" else "w") as tar:
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
    around = "holiday 2026/photos" if ending == "zip" else "photos"
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
    with pytest.raises(
        UserError, match=r"1 of 36 files cannot be read: red/00.png \(.*changed since it was downloaded"
    ):
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
    assert "left out: 1 file(s), in no class folder" in printed


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
    assert "2 of 36 files cannot be read: blue/07.png (no image of a format that Pillow knows" in str(refused.value)
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
    monkeypatch.setattr(normalize, "BLOCK", 3 * 3 * SIZE * SIZE)  # bytes: 3 images
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
        (empty_class, (), "photos/yellow: an empty folder; put images into it, or remove it"),
        (class_of_text, (), "class folder(s) without an image: yellow; put images into them, or remove them"),
        (only_in_test, ("train", "test"), "no training image of class red; add some"),
        (too_few, (), "class red has 2 rows, which leaves none for val"),
        (shutil.rmtree, (), "photos: found nothing, expected a folder, or an archive (.zip, .tar, .tar.gz)"),
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
    with pytest.raises(ValueError, match="pixels of 32 bits"):
        decode(saved(Image.fromarray(ramp.astype(np.float32)), "TIFF"), 16)


def test_a_decompression_bomb_is_unreadable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    for side in (12, 20):  # Pillow warns above the limit and refuses above twice the limit
        with pytest.raises(ValueError, match="exceeds limit of"):
            decode(saved(Image.new("RGB", (side, side)), "PNG"), 4)


def test_dvc_notices_changes_of_the_source(fresh: Project, tmp_path: Path) -> None:
    source = album(tmp_path / "photos")
    fresh.set(dataset="folder", source=source, image_size=SIZE, epochs=1)
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
