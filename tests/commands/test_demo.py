"""The demo page, in a real browser, from a plain file server on the loopback."""

import json
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from selenium.webdriver import ActionChains, Chrome, Keys
from selenium.webdriver.common.actions.action_builder import ActionBuilder
from selenium.webdriver.common.actions.pointer_input import PointerInput
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from commands.lib import exported, placing
from commands.lib.end_to_end import end_to_end
from stages.lib.model import model_file
from stages.lib.preprocessing import geometry
from stages.lib.splits import shards
from stages.lib.splits.description import DataDescription
from tests.browser import chromium
from tests.conftest import RUNTIME, Project

# All tests share one browser and one page.
pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("shipped")]

# Strokes, in pixels of a canvas of 280.
ONE = [(150, 40), (140, 140), (130, 240)]
ZERO = [(140 + 60 * math.sin(angle), 140 - 90 * math.cos(angle)) for angle in np.linspace(0, 2 * math.pi, 24)]


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_arguments: Any) -> None: ...


@pytest.fixture(scope="session")
def page(shipped: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project after `make demo`. Shared: copy it before changing it."""
    project = shipped.copy(tmp_path_factory.mktemp("page") / "project")
    (project.root / "demo/node_modules").mkdir(parents=True)
    (project.root / "demo/node_modules/onnxruntime-web").symlink_to(RUNTIME)
    project.command("demo")
    return project


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    """A browser that connects to the loopback only."""
    driver = chromium(tmp_path_factory.mktemp("browser"))
    yield driver
    driver.quit()


@pytest.fixture
def serve() -> Iterator[Callable[[Path], str]]:
    """A function that serves a folder and returns its address."""
    servers = []

    def start(folder: Path) -> str:
        server = ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=folder))
        Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def opened(page: Project, browser: Chrome, serve: Callable[[Path], str]) -> Iterator[Chrome]:
    """The page, with its model loaded. Its console must stay empty."""
    browser.get(serve(page.root / "reports/demo"))
    ready(browser)
    yield browser
    assert [entry for entry in browser.get_log("browser") if entry["level"] != "INFO"] == []


def draw(browser: Chrome, strokes: Sequence[tuple[float, float]], kind: str = "mouse") -> None:
    """Draw a line through some points, with real pointer events."""
    paper = browser.find_element(By.ID, "paper")
    scale = paper.size["width"] / 280
    actions = ActionBuilder(browser, mouse=PointerInput(kind, kind), duration=0)
    pointer = actions.pointer_action
    for number, (x, y) in enumerate(strokes):
        pointer.move_to(paper, round((x - 140) * scale), round((y - 140) * scale))
        if number == 0:
            pointer.pointer_down()
    pointer.pointer_up()
    actions.perform()


def ready(browser: Chrome) -> None:
    """Wait until the page is no longer busy, as it tells screen readers."""
    output = browser.find_element(By.ID, "output")
    WebDriverWait(browser, 30, poll_frequency=0.02).until(lambda _: output.get_attribute("aria-busy") == "false")


def prediction(browser: Chrome) -> str:
    """Wait for the predicted class."""
    ready(browser)
    return browser.find_element(By.CSS_SELECTOR, "#answer strong").text


def text_of(browser: Chrome, name: str) -> str:
    """Return the text of an element, visible or not."""
    return str(browser.find_element(By.ID, name).get_property("textContent"))


def probabilities(browser: Chrome) -> dict[str, float]:
    rows = browser.find_elements(By.CSS_SELECTOR, "#probabilities tr")
    return {
        row.find_element(By.TAG_NAME, "th").text: float(
            row.find_element(By.TAG_NAME, "td").get_attribute("data-probability") or "nan"
        )
        for row in rows
    }


def choose(browser: Chrome, path: Path) -> None:
    """Choose a file."""
    browser.find_element(By.ID, "file").send_keys(str(path))


def predict(project: Project, *images: Path, csv: Path) -> list[dict[str, str]]:
    """Run `predict` for the ten most probable classes. Returns a row per image."""
    project.command("predict", *map(str, images), "--top-k", "10", "--csv", str(csv))
    return [{str(name): cell for name, cell in row.items()} for row in pd.read_csv(csv, dtype=str).to_dict("records")]


def ranked(row: dict[str, str]) -> dict[str, float]:
    """Return the probabilities in a row of `predict`, the most probable class first."""
    suffixes = ["", *(f"_{rank}" for rank in range(2, 11))]
    return {row[f"predicted{suffix}"]: float(row[f"confidence{suffix}"]) for suffix in suffixes}


def in_page(browser: Chrome, name: str, image: np.ndarray, size: int) -> np.ndarray:
    """Call a function of digit.js with an image (H, W) uint8."""
    pixels = browser.execute_async_script(
        """
        const [name, rows, size, done] = arguments;
        import("./digit.js").then((digit) => {
          const image = { pixels: Uint8ClampedArray.from(rows.flat()), width: rows[0].length, height: rows.length };
          done(Array.from(digit[name](image, size)?.pixels ?? []));
        });
        """,
        name,
        image.tolist(),
        size,
    )
    return np.array(pixels, np.uint8).reshape(size, size)


@pytest.mark.parametrize("kind", ["mouse", "touch"])
def test_a_drawn_one_and_a_drawn_zero_are_recognized(opened: Chrome, kind: str) -> None:
    assert opened.find_element(By.ID, "answer").text == "Nothing yet."
    draw(opened, ONE, kind)
    assert prediction(opened) == "1"
    assert probabilities(opened)["1"] > 0.5
    assert sum(probabilities(opened).values()) == pytest.approx(1, abs=1e-5)
    opened.find_element(By.ID, "clear").click()
    WebDriverWait(opened, 10).until(lambda _: opened.find_element(By.ID, "answer").text == "Nothing yet.")
    draw(opened, ZERO, kind)
    assert prediction(opened) == "0"
    assert probabilities(opened)["0"] > 0.5


def test_probabilities_change_while_the_pointer_is_down(opened: Chrome) -> None:
    paper = opened.find_element(By.ID, "paper")
    chain = ActionChains(opened, duration=0)
    chain.move_to_element_with_offset(paper, -10, -90).click_and_hold().move_by_offset(0, 120).perform()
    first = prediction(opened)
    before = probabilities(opened)
    ActionChains(opened, duration=0).move_by_offset(60, -30).move_by_offset(0, -80).perform()
    WebDriverWait(opened, 10).until(lambda _: probabilities(opened) != before)
    ActionChains(opened).release().perform()
    assert first


def test_drawing_without_https_and_localhost(opened: Chrome) -> None:
    """There browsers have no positions between two events."""
    opened.execute_script("delete PointerEvent.prototype.getCoalescedEvents")
    draw(opened, ONE)
    assert prediction(opened) == "1"


def test_only_the_first_button_draws(opened: Chrome) -> None:
    paper = opened.find_element(By.ID, "paper")
    ActionChains(opened).context_click(paper).move_by_offset(20, 60).perform()
    ready(opened)
    assert text_of(opened, "answer") == "Nothing yet."


def test_the_last_input_counts(opened: Chrome, tmp_path: Path) -> None:
    """A drawing is not replaced by a file that was chosen before it and takes long to decode."""
    Image.effect_noise((3000, 3000), 90).save(tmp_path / "large.png")
    choose(opened, tmp_path / "large.png")
    draw(opened, ONE)
    assert prediction(opened) == "1"
    assert opened.find_element(By.ID, "file").get_property("value") == ""


def test_no_other_server_is_contacted(opened: Chrome) -> None:
    draw(opened, ONE)
    prediction(opened)
    requested = opened.execute_script("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    names = {address.removeprefix(opened.current_url) for address in requested if not address.startswith("data:")}
    assert {"style.css", "demo.js", "digit.js", "ort.js", "ort.wasm", "about.json", "model.onnx"} <= names
    assert not any("://" in name for name in names), names


def test_the_page_works_by_keyboard_and_with_a_screen_reader(opened: Chrome) -> None:
    named = {
        "paper": ("application", "Drawing area"),
        "clear": ("button", "Clear"),
        "file": ("button", "Choose an image file:"),
        "invert": ("checkbox", "Invert an image if its background is unlike the training images"),
        "model-input": ("image", "The input of the model"),
    }
    for name, (role, text) in named.items():
        element = opened.find_element(By.ID, name)
        assert element.aria_role in (role, "img" if role == "image" else role)
        assert text in element.accessible_name
    assert opened.find_element(By.TAG_NAME, "table").accessible_name == "Probability of each class"

    # Tab reaches every control, and focus is visible.
    reached = []
    for _ in range(4):
        ActionChains(opened).send_keys(Keys.TAB).perform()
        reached.append(opened.switch_to.active_element.get_attribute("id"))
    assert reached == ["clear", "paper", "file", "invert"]
    ActionChains(opened).key_down(Keys.SHIFT).send_keys(Keys.TAB * 2).key_up(Keys.SHIFT).perform()
    assert opened.switch_to.active_element.get_attribute("id") == "paper"
    assert opened.find_element(By.ID, "pen").is_displayed()
    ActionChains(opened).send_keys(Keys.ARROW_UP * 9, Keys.SPACE, Keys.ARROW_DOWN * 18, Keys.SPACE).perform()
    assert prediction(opened) == "1"
    answer = text_of(opened, "answer")
    WebDriverWait(opened, 10).until(lambda _: text_of(opened, "announcement") == answer.replace(" ", ", ", 1) + ".")
    assert text_of(opened, "pen-state") == "Pen up at 50 % from the left, 82 % from the top."
    ActionChains(opened).send_keys(Keys.ESCAPE).perform()
    ready(opened)
    assert text_of(opened, "pen-state") == "Cleared. Pen up at 50 % from the left, 82 % from the top."
    assert text_of(opened, "answer") == "Nothing yet."


def test_files_get_the_predictions_of_predict(page: Project, opened: Chrome, tmp_path: Path) -> None:
    """Test images as they are; and larger, coloured and transparent ones, which both resize and convert to grey."""
    test = shards.read(page.root / "data/normalized/test")
    files = []
    for row in range(50, 1000, 100):
        files.append(tmp_path / f"{row:03}.png")
        Image.fromarray(test.images(row, row + 1)[0, 0]).save(files[-1])
    digit = Image.open(files[3])
    others = {
        "large.png": digit.resize((280, 280), Image.Resampling.BICUBIC),
        "wide.png": digit.resize((300, 200), Image.Resampling.BICUBIC).convert("RGB"),
        "red.png": Image.merge("RGB", [digit.resize((60, 60)), Image.new("L", (60, 60)), Image.new("L", (60, 60))]),
        "clear.png": Image.merge("LA", [Image.new("L", (90, 90)), digit.resize((90, 90))]),
    }
    for name, image in others.items():
        image.save(tmp_path / name)
    every = [*files, *(tmp_path / name for name in others)]
    for predicted in predict(page, *every, csv=tmp_path / "predictions.csv"):
        path = Path(predicted["image"])
        choose(opened, path)
        assert prediction(opened) == predicted["predicted"]
        expected = ranked(predicted)
        # torch rounds the weights of its filter: resized pixels may differ by 1 of 255.
        assert probabilities(opened) == pytest.approx(expected, abs=1e-5 if path in files else 0.02), path.name


def test_a_dark_on_light_file_gives_a_hint_and_can_be_inverted(page: Project, opened: Chrome, tmp_path: Path) -> None:
    test = shards.read(page.root / "data/normalized/test")
    image = test.images(750, 751)[0, 0]
    Image.fromarray(image).save(tmp_path / "light_on_dark.png")
    Image.fromarray(255 - image).save(tmp_path / "dark_on_light.png")
    choose(opened, tmp_path / "light_on_dark.png")
    first = prediction(opened)
    expected = probabilities(opened)
    assert opened.find_element(By.ID, "hint").text == ""
    choose(opened, tmp_path / "dark_on_light.png")
    prediction(opened)
    background = "The background appears to be light, unlike those of the training images."
    assert text_of(opened, "hint") == f"{background} The prediction is unreliable: try inverting the image."
    opened.find_element(By.ID, "invert").click()
    assert prediction(opened) == first
    assert probabilities(opened) == pytest.approx(expected, abs=1e-6)
    assert text_of(opened, "hint") == f"{background} The image was inverted."
    choose(opened, tmp_path / "light_on_dark.png")
    assert prediction(opened) == first, "only opposite backgrounds are inverted"
    assert probabilities(opened) == pytest.approx(expected, abs=1e-6)


def test_a_file_that_is_not_an_image(opened: Chrome, tmp_path: Path) -> None:
    (tmp_path / "notes.png").write_text("no image")
    choose(opened, tmp_path / "notes.png")
    problem = opened.find_element(By.ID, "problem")
    WebDriverWait(opened, 10).until(lambda _: problem.text)
    assert problem.text == "notes.png is not an image that this browser can read."
    draw(opened, ONE)
    assert prediction(opened) == "1"
    assert problem.text == ""


@pytest.mark.parametrize("shape", [(37, 50), (20, 20), (300, 281), (28, 400), (29, 28)])
def test_a_file_is_resized_as_the_training_images_were(opened: Chrome, shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    expected = geometry.fit(image[np.newaxis, np.newaxis], 28)[0, 0]
    actual = in_page(opened, "fitted", image, 28)
    assert np.abs(actual.astype(int) - expected).max() <= 1
    assert (actual != expected).mean() < 0.05


def test_placing_does_not_move_the_digits_of_mnist(page: Project, opened: Chrome) -> None:
    """They have been placed by the same rule."""
    test = shards.read(page.root / "data/normalized/test")
    unmoved = 0
    for digit in test.images(0, len(test))[:, 0]:
        moved = in_page(opened, "placed", digit, 28)
        np.testing.assert_array_equal(moved, placing.placed(digit, 28))
        if max(np.ptp(np.nonzero(digit)[axis]) + 1 for axis in (0, 1)) == 20:  # one digit is smaller
            np.testing.assert_array_equal(moved, digit)
            unmoved += 1
    assert unmoved == 999


def test_the_page_places_drawings_as_predict_does(opened: Chrome) -> None:
    """Pixel for pixel, in every shape; symmetric drawings have their centre of mass between two pixels."""
    random = np.random.default_rng(0)
    for number, (height, width) in enumerate(random.integers(1, 280, (100, 2))):
        drawing = np.zeros((height, width), np.uint8)
        for _ in range(4):
            top, left = random.integers(0, (height, width))
            stroke = drawing[top : top + random.integers(1, 100), left : left + random.integers(1, 100)]
            stroke[:] = 255 if number % 2 else random.integers(0, 256, stroke.shape)
        if number % 3 == 0:
            drawing = np.hstack([drawing, drawing[:, ::-1]])
        size = (28, 8, 33, 64)[number % 4]
        np.testing.assert_array_equal(in_page(opened, "placed", drawing, size), placing.placed(drawing, size))


def test_too_little_ink_is_no_drawing(opened: Chrome) -> None:
    dots = np.zeros((400, 400), np.uint8)
    dots[0, 0] = dots[-1, -1] = 20
    with pytest.raises(ValueError, match="too little"):
        placing.placed(dots, 28)
    assert in_page(opened, "placed", dots, 0).size == 0


def test_a_drawing_may_have_any_size_and_position(opened: Chrome) -> None:
    drawing = np.zeros((280, 280), np.uint8)
    drawing[20:60, 200:210] = 255
    digit = in_page(opened, "placed", drawing, 28)
    assert (digit[4:24].sum(1) > 0).all()
    assert digit[:4].sum() == digit[24:].sum() == 0, "20 pixels high"
    assert (digit[10] > 0).sum() == 5, "and 5 wide"
    rows, columns = np.indices((28, 28))
    assert 0 <= (digit * columns).sum() / digit.sum() - 13.5 < 1
    assert 0 <= (digit * rows).sum() / digit.sum() - 13.5 < 1
    np.testing.assert_array_equal(in_page(opened, "placed", np.roll(drawing, (100, -150), (0, 1)), 28), digit)
    assert in_page(opened, "placed", drawing, 56).any(0).sum() == 10
    heavy = np.zeros((280, 280), np.uint8)
    heavy[:, :30] = heavy[270:, :] = 255
    assert in_page(opened, "placed", heavy, 28).any(0).sum() == 20, "no ink is lost at an edge"


@pytest.mark.parametrize("width", [320, 1000])
def test_the_page_fits_the_width_of_the_window(opened: Chrome, width: int) -> None:
    opened.set_window_size(width, 900)
    try:
        # Chrome's windows have a minimum width, so the viewport is made narrow.
        opened.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False},
        )
        draw(opened, ZERO)
        assert prediction(opened) == "0"
        assert opened.execute_script("return document.documentElement.scrollWidth") <= width
    finally:
        opened.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        opened.set_window_size(1000, 900)


def test_a_missing_model(page: Project, browser: Chrome, serve: Callable[[Path], str], tmp_path: Path) -> None:
    for path in (page.root / "reports/demo").iterdir():
        if path.name != "model.onnx":
            (tmp_path / path.name).symlink_to(path)
    browser.get(serve(tmp_path))
    problem = browser.find_element(By.ID, "problem")
    WebDriverWait(browser, 30).until(lambda _: problem.text)
    assert problem.text.startswith("The model could not be loaded:")
    browser.get_log("browser")


def test_a_model_of_colours_and_many_classes(
    page: Project, browser: Chrome, serve: Callable[[Path], str], tmp_path: Path
) -> None:
    """The drawing area is hidden. A file gets the ten most probable classes."""
    project = Project(tmp_path / "project")
    shutil.copytree(page.root / "demo", project.root / "demo", symlinks=True)
    for name in ("commands", "stages"):
        shutil.copytree(page.root / name, project.root / name)
    data = DataDescription(
        dataset="made up", classes=[f"kind {n}" for n in range(25)], shape=(3, 16, 16), mean=[0.9] * 3, std=[0.3] * 3
    )
    torch.manual_seed(0)
    architecture = model_file.Architecture(model="mlp", hidden=[32], activation="relu", dropout=0.0)
    weights = model_file.build(architecture, data).state_dict()
    path = project.root / model_file.MODEL
    model_file.save(path, weights, architecture, data, {"train": 3, "val": 1}, {"arithmetic": "portable"})
    network, model = model_file.load(path)
    program = exported.program_of(end_to_end(network, data), data)
    exported.save_onnx(program, path.with_suffix(".onnx"), data, exported.about(model))
    project.command("demo")
    picture = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    Image.fromarray(picture).save(tmp_path / "picture.png")
    (row,) = predict(project, tmp_path / "picture.png", csv=tmp_path / "predictions.csv")

    browser.get(serve(project.root / "reports/demo"))
    ready(browser)
    assert not browser.find_element(By.ID, "paper").is_displayed()
    choose(browser, tmp_path / "picture.png")
    assert prediction(browser) == row["predicted"]
    expected = ranked(row)
    assert probabilities(browser) == pytest.approx(expected, abs=1e-5)
    assert list(probabilities(browser)) == list(expected), "the most probable one first"
    shown = browser.execute_script(
        "const input = document.getElementById('model-input'); return getComputedStyle(input).filter === 'none' && "
        "Array.from(input.getContext('2d').getImageData(0, 0, input.width, input.height).data)"
    )
    np.testing.assert_array_equal(np.array(shown).reshape(16, 16, 4)[..., :3], picture)


def test_errors_are_one_line(page: Project, tmp_path: Path) -> None:
    project = page.copy(tmp_path / "project")
    before = (project.root / "reports/demo/model.onnx").read_bytes()
    project.set(epochs=1)
    project.stage("train")
    refused = project.command("demo", fails=True).stderr
    assert refused == (
        "demo: error: models/model.onnx: of another model than models/model.safetensors; run `make export`\n"
    )
    (project.root / "models/model.onnx").write_bytes(before[:1000])
    assert "models/model.onnx: damaged" in project.command("demo", fails=True).stderr
    (project.root / "models/model.onnx").unlink()
    assert (
        project.command("demo", fails=True).stderr == "demo: error: models/model.onnx: not found; run `make export`\n"
    )
    (project.root / "demo/node_modules/onnxruntime-web").unlink()
    assert "`make demo` installs it with npm" in project.command("demo", fails=True).stderr
    assert (project.root / "reports/demo/model.onnx").read_bytes() == before
    assert json.loads((project.root / "reports/demo/about.json").read_text())["on_light"] is False
