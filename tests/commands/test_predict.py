"""Predictions of images from outside of the data set, by the real command."""

import contextlib
import io
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from tqdm import tqdm

from commands import predict as predict_command
from commands.lib import backgrounds, placing, unseen
from stages.lib.core.errors import UserError
from stages.lib.model import inference, model_file, tensors
from stages.lib.model.distributed import SINGLE
from stages.lib.model.inference import outputs_of
from stages.lib.preprocessing import geometry
from stages.lib.splits import shards
from stages.lib.splits.description import DataDescription, Quantity
from tests.conftest import Project, environment

GREY = DataDescription(dataset="made up", classes=["a", "b"], shape=(1, 8, 8), mean=[0.1], std=[0.3])
COLOUR = DataDescription(dataset="made up", classes=["a", "b"], shape=(3, 8, 8), mean=[0.5] * 3, std=[0.3] * 3)
NUMBERS = DataDescription(
    dataset="made up",
    classes=[],
    shape=(1, 8, 8),
    mean=[0.5],
    std=[0.3],
    quantities=[Quantity(name="angle", mean=10.0, std=2.0), Quantity(name="size", mean=0.0, std=1.0)],
)
ARCHITECTURE = model_file.Architecture(model="mlp", hidden=[4], activation="tanh", dropout=0.0)


@pytest.fixture
def model(folder: Path) -> Callable[[DataDescription], str]:
    """A function that saves an untrained model for some data and returns its path."""

    def save(data: DataDescription) -> str:
        torch.manual_seed(0)
        network = model_file.build(ARCHITECTURE, data)
        path = folder / "other.safetensors"
        model_file.save(
            path, network.state_dict(), ARCHITECTURE, data, {"train": 3, "val": 1}, {"arithmetic": "portable"}
        )
        return str(path)

    return save


def predict(project: Project, *arguments: str, fails: bool = False) -> tuple[list[str], list[str], pd.DataFrame]:
    """Run `predict`. Returns the lines of the table, those of stderr, and the CSV."""
    done = project.command("predict", *arguments, "--csv", "out.csv", fails=fails)
    table = pd.read_csv(project.root / "out.csv", dtype=str, keep_default_na=False)
    first, *shown = done.stdout.splitlines()
    assert first == "models/model.safetensors: mlp, trained on mnist-5k"
    return shown, done.stderr.splitlines(), table


def test_the_test_split_as_image_files_has_the_predictions_of_evaluate(project: Project) -> None:
    test = shards.read(project.root / "data/normalized/test")
    folder = project.root / "digits"
    for row, image in enumerate(test.images(0, len(test))):
        (folder / f"{row // 100}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0]).save(folder / f"{row // 100}/{row:04}.png")
    shown, messages, table = predict(project, "digits")
    expected = pd.read_csv(project.root / "reports/predictions.csv", dtype=str)
    assert table["image"].tolist() == [f"digits/{row // 100}/{row:04}.png" for row in range(1000)]
    assert table["predicted"].tolist() == expected["predicted"].tolist()
    assert table["confidence"].tolist() == expected["confidence"].tolist()
    assert shown[0].split() == ["image", "predicted", "then", "then"]
    first = {str(name): str(cell) for name, cell in table.iloc[0].items()}
    best = [(first[f"predicted{rank}"], f"{float(first[f'confidence{rank}']):.1%}") for rank in ("", "_2", "_3")]
    assert shown[1].split() == [first["image"], *(text for pair in best for text in pair)]
    assert shown[-1] == "and 960 more; --csv FILE writes them all"
    assert messages == []

    # Logits are equal to the last bit in the same batches, and within rounding in others.
    network, description = model_file.load(project.root / model_file.MODEL)
    split = tensors.read(project.root / "data/tensors/test", memory=0)
    device = torch.device("cpu")
    logits = torch.cat([batch for _, batch in outputs_of(network, split, device, SINGLE)])
    files = unseen.files_of(folder)
    pixels = unseen.read(files, description.data, project.root / "pixels", tqdm(disable=True))
    assert torch.equal(torch.cat([batch for _, batch in outputs_of(network, pixels, device, SINGLE)]), logits)
    one = unseen.read(files[700:701], description.data, project.root / "one", tqdm(disable=True))
    torch.testing.assert_close(next(outputs_of(network, one, device, SINGLE))[1], logits[700:701], atol=1e-5, rtol=1e-5)


def test_files_of_every_format_and_mode(project: Project) -> None:
    """The same digit in eleven files, half of them larger."""
    test = shards.read(project.root / "data/normalized/test")
    digit = Image.fromarray(test.images(500, 501)[0, 0])
    large = digit.resize((280, 280), Image.Resampling.BICUBIC)
    files = {
        "a.png": digit,
        "b.png": digit.convert("RGB"),
        "c.png": digit.convert("RGBA"),
        "d.png": digit.convert("P"),
        "e.png": Image.fromarray(np.asarray(digit).astype(np.uint16) * 257),
        "f.bmp": digit,
        "g.jpg": large,
        "h.webp": large.convert("RGB"),
        "i.tiff": large,
        "j.gif": large,
        "k.PNG": large.convert("LA"),
    }
    for name, image in files.items():
        image.save(project.root / name, {"k.PNG": "PNG"}.get(name))
    _, messages, table = predict(project, *files)
    assert messages == []
    assert table["image"].tolist() == list(files)
    actual = pd.read_csv(project.root / "reports/predictions.csv", dtype=str)["predicted"][500]
    assert table["predicted"].tolist() == [actual] * len(files)
    assert len(set(table["confidence"][:6])) == 1, "equal pixels"


def test_an_untidy_folder(project: Project) -> None:
    """Links are followed, clutter is not; the rest is the rule of normalize for what is an image."""
    folder, elsewhere = project.root / "untidy", project.root / "elsewhere"
    (folder / "@eaDir").mkdir(parents=True)
    elsewhere.mkdir()
    digit = Image.new("L", (28, 28))
    for name in ("untidy/a", "untidy/@eaDir/thumb.png", "elsewhere/b.png"):
        digit.save(project.root / name, "PNG")
    digit.save(folder / "c.tif", save_all=True, append_images=[digit])
    (folder / "linked").symlink_to(elsewhere)
    (folder / "notes.pdf").write_bytes(b"%PDF")
    (folder / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic")
    _, messages, table = predict(project, "untidy", fails=True)
    assert table["image"].tolist() == ["untidy/a", "untidy/c.tif", "untidy/linked/b.png"]
    assert messages == [
        "predict: left out: 1 file(s) in untidy, no images",
        "predict: several pages: 1 file(s), such as untidy/c.tif with 2; only the first page is used; save the others "
        "as files of their own",
        "predict: error: untidy/phone.heic: HEIC, which Pillow does not read; convert the files, for example by "
        "`magick mogrify -format png *.heic`",
    ]
    (elsewhere / "circle").symlink_to(folder)
    done = project.command("predict", "untidy", fails=True)
    assert done.stdout == ""
    assert done.stderr == "predict: error: untidy: untidy/linked/circle: a link to a folder that holds it; remove it\n"


def test_a_broken_image_is_one_error_and_the_others_are_predicted(project: Project) -> None:
    sheet = Image.new("L", (28, 28))
    for name in ("one.png", "three.png"):
        sheet.save(project.root / name)
    (project.root / "two.png").write_bytes((project.root / "one.png").read_bytes()[:40])
    shown, messages, table = predict(project, "one.png", "two.png", "none.png", "three.png", fails=True)
    assert table["image"].tolist() == ["one.png", "three.png"]
    assert len(shown) == 3
    assert [line.split(":")[:3] for line in messages] == [
        ["predict", " error", " two.png"],
        ["predict", " error", " none.png"],
    ]
    assert messages[1].endswith("No such file or directory")


def test_any_file_name(project: Project) -> None:
    names = [b"a\xff.png", b"b\nc.png", "d\u00e9 \u4e03.png".encode()]
    folder = os.fsencode(project.root / "odd")
    os.mkdir(folder)
    Image.new("L", (28, 28)).save(project.root / "plain.png")
    for name in names:
        shutil.copy(os.fsencode(project.root / "plain.png"), os.path.join(folder, name))
    Path(os.fsdecode(os.path.join(folder, b"broken\xff.png"))).write_bytes(b"no image")
    shown, messages, table = predict(project, "odd", fails=True)
    assert table["image"].tolist() == ["odd/a\\udcff.png", "odd/b\\nc.png", "odd/d\u00e9 \u4e03.png"]
    assert len(shown) == 4
    assert messages == ["predict: error: odd/broken\\udcff.png: no image of a format that Pillow reads"]


def test_a_folder_without_images_is_one_error_and_the_others_are_predicted(project: Project) -> None:
    (project.root / "empty").mkdir()
    Image.new("L", (28, 28)).save(project.root / "plain.png")
    _, messages, table = predict(project, "empty", "plain.png", fails=True)
    assert table["image"].tolist() == ["plain.png"]
    assert messages == ["predict: error: empty: contains no image, 0 other file(s); expected images such as 7.png"]


def test_progress_is_shown_only_on_a_terminal(reproduced: Project, folder: Path) -> None:
    (folder / "images").mkdir()
    for row in range(70):
        Image.new("L", (28, 28), row).save(folder / f"images/{row:02}.png")
    command = ["python", "-m", "commands.predict", str(folder / "images")]
    assert "predicting" not in reproduced.run(*command).stderr
    done = reproduced.run("script", "--quiet", "--command", "stty rows 30 cols 100; " + " ".join(command), "/dev/null")
    assert "predicting: 100%" in done.stdout


@pytest.mark.parametrize("batches", [1, 16])
def test_predictions_do_not_depend_on_how_many_images_are_decoded_together(
    model: Callable[[DataDescription], str], folder: Path, monkeypatch: pytest.MonkeyPatch, batches: int
) -> None:
    """One of the images is in colour, and one is broken."""
    random = np.random.default_rng(0)
    for row in range(20):
        pixels = random.integers(0, 256, (8, 8, 3) if row == 7 else (8, 8), np.uint8)
        Image.fromarray(pixels).save(folder / f"{row:02}.png")
    (folder / "03.png").write_bytes(b"no image")
    monkeypatch.setattr(inference, "MAX_ROWS", 3)
    monkeypatch.setattr(predict_command, "BATCHES_DECODED", batches)
    command = ["predict", *(f"{row:02}.png" for row in range(20)), "--model", model(GREY), "--csv", f"{batches}.csv"]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit):
        predict_command.main()
    table = pd.read_csv(f"{batches}.csv")
    assert table["image"].tolist() == [f"{row:02}.png" for row in range(20) if row != 3]
    network, _ = model_file.load(Path(model(GREY)))
    for row, confidence in zip(table.index, table["confidence"], strict=True):
        image = torch.from_numpy(np.array(Image.open(table["image"][row]).convert("L")))[None, None]
        with torch.inference_mode():
            expected = network(tensors.Standardize(GREY)(image)).softmax(1).max()
        assert confidence == pytest.approx(float(expected), abs=2e-6)


def test_images_are_inverted_if_all_are_clearly_dark_on_light(project: Project) -> None:
    test = shards.read(project.root / "data/normalized/test")
    for row, image in enumerate(test.images(300, 310)[:, 0]):
        Image.fromarray(image).save(project.root / f"{row}-light.png")
        Image.fromarray(255 - image).save(project.root / f"{row}-dark.png")
    (project.root / "broken.png").write_bytes(b"no image")
    dark = [f"{row}-dark.png" for row in range(10)]
    light = [f"{row}-light.png" for row in range(10)]
    _, silent, expected = predict(project, *light)
    assert silent == []

    shown, messages, all_of_them = predict(project, *dark, "broken.png", fails=True)
    assert all_of_them["predicted"].tolist() == expected["predicted"].tolist()
    assert all_of_them["confidence"].tolist() == expected["confidence"].tolist()
    assert all_of_them["inverted"].tolist() == ["yes"] * 10
    assert "0-dark.png (inverted)" in shown[1]
    why = "dark on light, and the training images are light on dark"
    assert messages[0] == (
        f"predict: inverted 10 of 10 images, such as 0-dark.png: {why}; to leave all as they are: --invert never "
        "(make: INVERT=never)"
    )
    assert messages[1].startswith("predict: error: broken.png: ")
    assert len(messages) == 2, "unreadable files do not count"

    _, messages, some = predict(project, *dark, light[0])
    assert messages == [
        f"predict: warning: 10 of 11 images, such as 0-dark.png, appear to be {why}: the predictions are unreliable; "
        "to invert them: --invert each (make: INVERT=each)"
    ]
    assert some["inverted"].tolist() == ["no"] * 11
    _, messages, each = predict(project, *dark, light[0], "--invert", "each")
    assert messages == [f"predict: inverted 10 of 11 images, such as 0-dark.png: {why}"]
    assert each["predicted"].tolist() == [*expected["predicted"], expected["predicted"][0]]
    assert each["inverted"].tolist() == ["yes"] * 10 + ["no"]
    _, messages, never = predict(project, *dark, light[0], "--invert", "never")
    assert messages == []
    assert never["inverted"].tolist() == ["no"] * 11
    assert never["predicted"].tolist() == some["predicted"].tolist() != each["predicted"].tolist()


@pytest.mark.parametrize("exception", [None, 0, 11, 19])
@pytest.mark.parametrize("place", [False, True])
def test_one_exception_prevents_the_inversion_of_all_images(
    model: Callable[[DataDescription], str],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    exception: int | None,
    place: bool,
) -> None:
    """Wherever it is: images that were decoded before it are predicted again without inversion."""
    images = np.full((20, 8, 8), 255, np.uint8)
    for row in range(20):
        images[row, 2:5, 3:5] = 5 * row
    if exception is not None:
        images[exception] = 255 - images[exception]
    for row, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{row:02}.png")
    monkeypatch.setattr(inference, "MAX_ROWS", 3)
    monkeypatch.setattr(predict_command, "BATCHES_DECODED", 1)
    command = ["predict", *(f"{row:02}.png" for row in range(20)), "--model", model(GREY), "--csv", "o.csv"]
    monkeypatch.setattr(sys, "argv", command + ["--place"] * place)
    with contextlib.suppress(SystemExit):
        predict_command.main()
    rows = list(range(20))
    if place and exception is not None:
        rows = [exception]  # without inversion the others cannot be placed
        assert capsys.readouterr().err.count("--place takes light drawings: invert it with --invert each\n") == 19
    table = pd.read_csv("o.csv")
    assert table["image"].tolist() == [f"{row:02}.png" for row in rows]
    assert table["inverted"].tolist() == ["yes" if exception is None else "no"] * len(rows)
    network, _ = model_file.load(Path(model(GREY)))
    for row, confidence in zip(rows, table["confidence"], strict=True):
        image = 255 - images[row] if exception is None else images[row]
        if place:
            image = placing.placed(image, 8)
        with torch.inference_mode():
            standardized = tensors.Standardize(GREY)(torch.from_numpy(image)[None, None])
            assert confidence == pytest.approx(float(network(standardized).softmax(1).max()), abs=2e-6)


@pytest.mark.parametrize(
    ("mean", "light"), [(0.1, False), (0.25, False), (0.26, None), (0.5, None), (0.74, None), (0.75, True), (0.9, True)]
)
def test_the_mean_of_the_training_images_gives_their_background(mean: float, light: bool | None) -> None:
    assert backgrounds.trained_on_light(GREY.model_copy(update={"mean": [mean]})) is light


def test_the_edge_of_an_image_gives_its_background() -> None:
    for edge in (0, 127, 128, 255):
        image = np.full((1, 8, 8), 255 - edge, np.uint8)
        image[:, 0] = image[:, -1] = image[..., 0] = image[..., -1] = edge
        assert backgrounds.is_light(image) == (edge > 127)


def sheet(*, paper: int = 0, ink: int = 255) -> np.ndarray:
    image = np.full((1, 28, 28), paper, np.uint8)
    image[:, 4:24, 12:16] = ink
    return image


def touching(image: np.ndarray, pixels: int) -> np.ndarray:
    """Extend the stroke along the upper edge."""
    image[:, 0, :pixels] = image[0, 10, 13]
    return image


def gradient(low: int, high: int) -> np.ndarray:
    """A gradient from corner to corner, like uneven light on a photograph."""
    return np.add.outer(np.linspace(0, 0.5, 28), np.linspace(0, 0.5, 28))[np.newaxis] * (high - low) + low


@pytest.mark.parametrize(
    ("image", "clear"),
    [
        (sheet(), True),
        (sheet(paper=255, ink=0), True),
        (sheet(paper=170, ink=90), True),
        (touching(sheet(paper=255, ink=0), 10), True),
        (touching(sheet(paper=255, ink=0), 11), False),
        (np.full((1, 28, 28), 255), False),  # empty
        (np.full((1, 28, 28), 0), False),
        (sheet(paper=100, ink=20), False),  # a dark photograph
        (sheet(paper=255, ink=150), False),
        (np.where(np.arange(28) < 9, 135, sheet(paper=255, ink=0)), False),  # uneven
        (np.minimum(sheet(paper=255, ink=20), gradient(140, 220)), True),  # paper
        (np.pad(sheet(paper=20)[:, 1:-1, 1:-1], ((0, 0), (1, 1), (1, 1)), constant_values=255), False),  # a frame
    ],
)
def test_when_a_background_is_clear(image: np.ndarray, clear: bool) -> None:
    assert backgrounds.is_clear(image.astype(np.uint8)) == clear


def test_digits_that_touch_all_edges_are_not_inverted(reproduced: Project) -> None:
    """Of a tightly cropped digit, most of the edge may be ink."""
    test = shards.read(reproduced.root / "data/normalized/test")
    for digit in test.images(0, len(test)):
        tall, wide = (np.flatnonzero(digit[0].any(axis)) for axis in (1, 0))
        cropped = np.ascontiguousarray(digit[np.newaxis, :, tall[0] : tall[-1] + 1, wide[0] : wide[-1] + 1])
        image = geometry.fit(cropped, 28)[0]
        assert not (backgrounds.is_light(image) and backgrounds.is_clear(image))


def test_colour_images_are_not_inverted_unasked(
    model: Callable[[DataDescription], str], reproduced: Project, folder: Path
) -> None:
    """A negative of a colour photograph resembles no training image."""
    Image.fromarray(np.kron([[255, 255, 255], [255, 0, 255], [255, 255, 255]], np.ones((8, 8))).astype(np.uint8)).save(
        folder / "plain.png"
    )
    path = model(COLOUR.model_copy(update={"mean": [0.1] * 3}))
    done = reproduced.run("python", "-m", "commands.predict", str(folder / "plain.png"), "--model", path)
    assert done.stderr.startswith(f"predict: warning: {folder / 'plain.png'} appears to be dark on light, and")
    assert "(inverted)" not in done.stdout


def test_placed_digits_have_the_predictions_of_evaluate(project: Project) -> None:
    """Test digits in the corners of large sheets, light on dark or dark on light."""
    test = shards.read(project.root / "data/normalized/test")
    digits = test.images(0, len(test))[:, 0]
    stay = [row for row, digit in enumerate(digits) if np.array_equal(placing.placed(digit, 28), digit)]
    assert len(stay) == 999, "one digit has a smaller box"
    rows = stay[::25]
    for name, negative in (("light", False), ("dark", True)):
        (project.root / name).mkdir()
        for number, row in enumerate(rows):
            large = np.zeros((150, 280), np.uint8)
            top, left = (0, 122)[number % 2], (0, 252)[number // 2 % 2]
            large[top : top + 28, left : left + 28] = digits[row]
            Image.fromarray(255 - large if negative else large).save(project.root / f"{name}/{row:04}.png")
    expected = pd.read_csv(project.root / "reports/predictions.csv", dtype=str).iloc[rows]
    for name in ("light", "dark"):
        _, messages, table = predict(project, name, "--place")
        assert table["predicted"].tolist() == expected["predicted"].tolist()
        assert table["confidence"].astype(float).tolist() == pytest.approx(
            expected["confidence"].astype(float).tolist(), abs=1e-5
        )
        assert [message.partition(", such")[0] for message in messages] == (
            ["predict: inverted 40 of 40 images"] if name == "dark" else []
        )
    _, _, table = predict(project, "light")
    assert table["predicted"].tolist() != expected["predicted"].tolist(), "not placed"


def difference(one: np.ndarray, other: np.ndarray) -> float:
    """Compute the mean difference of the pixels of two images, up to a shift by one pixel."""
    shifts = itertools.product((-1, 0, 1), repeat=2)
    return float(min(np.abs(np.roll(one, shift, (0, 1)).astype(int) - other).mean() for shift in shifts))


@pytest.mark.parametrize("kind", ["jpeg", "scan", "photograph"])
def test_paper_is_removed_before_a_drawing_is_placed(reproduced: Project, kind: str) -> None:
    """A drawing on paper is placed nearly like the same drawing on an even background."""
    random = np.random.default_rng(0)
    for number in range(10):
        with Image.open(reproduced.root / f"docs/digits/{number}.png") as file:
            ink = np.asarray(file) < 128
        plain = np.zeros((500, 600), np.uint8)
        plain[280:480, 10:210] = ink * np.uint8(255)
        expected = placing.placed(plain, 28)
        assert np.array_equal(placing.placed(placing.without_paper(plain, 28), 28), expected)
        levels = {"jpeg": (0, 0, 255), "scan": (20, 0, 215), "photograph": (40, 40, 180)}
        paper, shade, black = levels[kind]
        picture = np.where(plain > 0, black, paper + shade * np.indices(plain.shape)[1] / 600)
        if kind != "jpeg":
            picture = np.clip(picture + random.normal(0, 5, plain.shape), 0, 255)
        content = io.BytesIO()
        Image.fromarray(picture.astype(np.uint8)).save(content, "JPEG", quality=60)
        pixels = np.asarray(Image.open(content))
        actual = placing.placed(placing.without_paper(pixels, 28), 28)
        assert difference(actual, expected) < 5
        assert difference(actual, expected) < difference(placing.placed(pixels, 28), expected)


def test_images_that_cannot_be_placed(
    reproduced: Project, model: Callable[[DataDescription], str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("L", (300, 200), 255).save(folder / "white.png")
    Image.new("L", (28, 28)).save(folder / "black.png")
    dots = np.zeros((2000, 2000), np.uint8)
    dots[0, 0] = dots[-1, -1] = 255
    Image.fromarray(dots).save(folder / "dots.png")
    shade = np.where(np.arange(300) < 200, 60, 180).astype(np.uint8)[np.newaxis].repeat(200, 0)
    Image.fromarray(shade).save(folder / "shade.png")
    names = ["white.png", "black.png", "dots.png", "shade.png"]
    command = ["python", "-m", "commands.predict", *(str(folder / name) for name in names), "--place"]
    done = reproduced.run(*command, "--invert", "each", "--csv", str(folder / "o.csv"), fails=True)
    assert done.stdout == "", "no table without rows"
    assert not (folder / "o.csv").exists()
    blank = "blank, or drawn too faintly: expected a pixel that differs from the background by 64 of 255 or more"
    assert done.stderr.splitlines() == [
        f"predict: error: {folder}/white.png: {blank}",
        f"predict: error: {folder}/black.png: {blank}",
        f"predict: error: {folder}/dots.png: too little ink: none is left at the model's image size",
        f"predict: error: {folder}/shade.png: uneven background at the edge; crop the image to the paper and light "
        "it evenly",
    ]
    for data, kind in [
        (COLOUR.model_copy(update={"mean": [0.1] * 3}), "in colour"),
        (GREY.model_copy(update={"mean": [0.9]}), "dark on light"),
        (GREY.model_copy(update={"mean": [0.5]}), "not drawings on a dark background"),
    ]:
        monkeypatch.setattr(sys, "argv", ["predict", "black.png", "--place", "--model", model(data)])
        with pytest.raises(UserError, match=f"other.safetensors \\(made up\\) are {kind}"):
            predict_command.main()


@pytest.mark.parametrize("command", [["commands.predict", "docs/digits"], ["stages.download", "--help"]])
def test_a_closed_pipe_ends_a_command_quietly(reproduced: Project, command: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    full = [sys.executable, "-W", "error", "-m", *command]
    root = reproduced.root
    done = subprocess.run(full, cwd=root, env=environment(), stdout=writer, stderr=subprocess.PIPE, text=True)
    both = subprocess.run(full, cwd=root, env=environment(), stdout=writer, stderr=writer)
    os.close(writer)
    assert done.returncode == both.returncode == 128 + signal.SIGPIPE
    assert [line for line in done.stderr.splitlines() if not line.startswith("predict: inverted")] == []
    closed = reproduced.run("sh", "-c", f"exec python -W error -m {' '.join(command)} >&-")
    assert "rror" not in closed.stderr


def test_conversion_of_grey_and_colour() -> None:
    grey = np.arange(64, dtype=np.uint8).reshape(1, 1, 8, 8) * 4
    colour = unseen.in_channels(grey, 3)
    assert colour.shape == (1, 3, 8, 8)
    np.testing.assert_array_equal(unseen.in_channels(colour, 1), grey)
    colour[0, 0] = 255
    expected = np.asarray(Image.fromarray(colour[0].transpose(1, 2, 0)).convert("L"))
    np.testing.assert_array_equal(unseen.in_channels(colour, 1)[0, 0], expected)


def test_models_of_colour_images_and_of_quantities(
    model: Callable[[DataDescription], str], reproduced: Project, folder: Path
) -> None:
    Image.new("L", (20, 30), 77).save(folder / "plain.png")
    for data, head in ((COLOUR, ["image", "predicted"]), (NUMBERS, ["image", "predicted_angle", "predicted_size"])):
        network, _ = model_file.load(Path(model(data)))
        options = ["--model", model(data), "--top-k", "1", "--csv", str(folder / "o.csv")]
        shown = reproduced.command("predict", str(folder / "plain.png"), *options).stdout.splitlines()
        assert shown.pop(0).endswith("other.safetensors: mlp, trained on made up")
        assert shown[0].split() == head
        table = pd.read_csv(folder / "o.csv")
        standardized = torch.full((1, *data.shape), 77 / 255).sub(data.mean[0]).div(data.std[0])
        with torch.inference_mode():
            outputs = network(standardized)[0].double()
        if data.classes:
            assert table["confidence"][0] == pytest.approx(float(outputs.softmax(0).max()), abs=1e-5)
        else:
            assert table["predicted_angle"][0] == pytest.approx(10 + 2 * float(outputs[0]), abs=1e-4)
            assert table["predicted_size"][0] == pytest.approx(float(outputs[1]), abs=1e-4)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ["x.png", "--model", "no/a.safetensors"],
            "argument --model: found `no/a.safetensors`, expected an existing file",
        ),
        (
            ["x.png", "--model", "params.yaml"],
            "argument --model: found `params.yaml`, expected an existing file such as",
        ),
        (["x.png", "--csv", "x.png"], "argument --csv: found `x.png`, expected a name that ends in .csv"),
        ([""], "argument FILE|FOLDER: found nothing, expected an image or a folder of images: IMAGES=path"),
        ([], "the following arguments are required: FILE|FOLDER"),
        (["x.png", "--top-k", "0"], "argument --top-k: found `0`, expected a whole number of at least 1"),
        (["x.png", "--top-k", "\u00b2"], "argument --top-k: found `\u00b2`, expected a whole number of at least 1"),
        (["x.png", "--inverse"], "unrecognized arguments: --inverse"),
        (["x.png", "--invert", "yes"], "argument --invert: invalid choice: 'yes' (choose from"),
    ],
)
def test_errors_of_the_command_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], line: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["predict", *arguments])
    with pytest.raises(UserError, match=re.escape(line)):
        predict_command.parse_arguments()


def test_errors_are_one_line(reproduced: Project, model: Callable[[DataDescription], str], folder: Path) -> None:
    (folder / "notes.txt").write_text("no image")
    (folder / "drawing.pdf").write_text("a format that Pillow writes but does not read")
    (folder / ".hidden.png").write_text("hidden")
    path = model(GREY)
    for arguments, line in [
        ([str(folder)], f"{folder}: contains no image, 6 other file(s); expected images such as 7.png"),
        (["/dev/null"], "/dev/null: neither a file nor a folder"),
        (["x.png", "--top-k", "no"], "argument --top-k: found `no`, expected a whole number of at least 1"),
    ]:
        done = reproduced.run("python", "-m", "commands.predict", *arguments, fails=True)
        assert done.returncode == 1
        assert done.stderr.startswith(f"predict: error: {line}")
        assert done.stderr.count("\n") == 1
    content = json.loads(Path(path).with_suffix(".json").read_text())
    Path(path).with_suffix(".json").write_text(json.dumps(content | {"threads": 2}))
    assert "damaged" in reproduced.run("python", "-m", "commands.predict", "x", "--model", path, fails=True).stderr


def test_nothing_is_inverted_if_the_training_background_is_unclear(
    model: Callable[[DataDescription], str], reproduced: Project, folder: Path
) -> None:
    Image.new("L", (8, 8), 255).save(folder / "plain.png")
    command = ["python", "-m", "commands.predict", str(folder / "plain.png"), "--model", model(COLOUR)]
    assert reproduced.run(*command).stderr == ""
    done = reproduced.run(*command, "--invert", "each")
    assert done.stderr == (
        "predict: nothing inverted: the training images are neither dark on light nor light on dark\n"
    )


def test_two_runs_at_the_same_time_leave_no_files(project: Project) -> None:
    """Unlike a stage, `predict` takes no lock."""
    Image.new("L", (28, 28)).save(project.root / "a.png")
    before = sorted(path for path in project.root.rglob("*") if "__pycache__" not in path.parts)
    first, second = (project.start("python", "-m", "commands.predict", "a.png") for _ in range(2))
    assert first.process.wait(timeout=120) == second.process.wait(timeout=120) == 0, first.output.read_text()
    assert sorted(path for path in project.root.rglob("*") if "__pycache__" not in path.parts) == before


def test_make_predict(project: Project) -> None:
    digit = np.zeros((90, 90), np.uint8)
    digit[4:24, 12:16] = 255
    Image.fromarray(255 - digit).save(project.root / "a digit.png")
    done = project.make("predict", "IMAGES=a digit.png")
    assert "a digit.png (inverted)" in done.stdout
    placed = project.make("predict", "IMAGES=a digit.png", "INVERT=each", "PLACE=yes")
    assert "a digit.png (inverted)  1 " in placed.stdout
    assert "a digit.png (inverted)  1 " not in done.stdout
    assert "a digit.png  " in project.make("predict", "IMAGES=a digit.png", "INVERT=never").stdout


def test_the_digits_of_the_documentation(reproduced: Project) -> None:
    page = (reproduced.root / "docs/using_the_model.md").read_text()
    documented = re.findall(r"^docs/digits/(\d).png \(inverted\)  (\d) ", page, re.MULTILINE)
    done = reproduced.run("python", "-m", "commands.predict", "docs/digits")
    printed = re.findall(r"^docs/digits/(\d).png \(inverted\)  (\d) ", done.stdout, re.MULTILINE)
    assert printed == list(dict(documented).items())
    assert len(printed) == 10
