"""The page that `make plots` writes, in a real browser without network access."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from selenium.webdriver import Chrome
from selenium.webdriver.support.wait import WebDriverWait

from tests.browser import chromium
from tests.conftest import ROOT, Project

# The same worker as test_demo.py, which has already reproduced a project.
pytestmark = pytest.mark.xdist_group("shipped")

PLOTS = """
return Array.from(document.querySelectorAll("svg.marks"), (svg) => ({
  title: Array.from(svg.querySelectorAll(".role-title-text text")).at(-1).textContent, // after the facets' titles
  text: svg.textContent,
  marks: svg.querySelectorAll("g[role=graphics-object] > :is(path, text)").length,
  width: svg.clientWidth,
}))
"""
IMAGES = "return Array.from(document.images, (image) => image.naturalWidth)"
LOADED = """
return Array.from(document.querySelectorAll("[src], link[href]"), (element) => element.src || element.href)
  .concat(performance.getEntriesByType("resource").map((entry) => entry.name))
"""


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Chrome]:
    browser = chromium(tmp_path / "profile")
    yield browser
    browser.quit()


def titles() -> list[str]:
    """The titles of all plots in dvc.yaml except images."""
    pipeline = yaml.safe_load((ROOT / "dvc.yaml").read_text())
    plots = [plot for stage in pipeline["stages"].values() for plot in stage.get("plots", [])] + pipeline["plots"]
    return sorted(settings["title"] for plot in plots for settings in plot.values() if "title" in settings)


def errors(browser: Chrome) -> list[str]:
    """The errors in the browser's console since the last call."""
    return [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


def open_page(browser: Chrome, page: Path, plots: int) -> list[dict[str, Any]]:
    """Open a local page, wait for that many plots, and return them."""
    browser.get(page.as_uri())
    WebDriverWait(browser, 30).until(lambda _: len(browser.execute_script(PLOTS)) >= plots)
    return list(browser.execute_script(PLOTS))


@pytest.mark.browser
def test_every_plot_is_drawn_offline(project: Project, browser: Chrome, tmp_path: Path) -> None:
    page = project.root / "dvc_plots/index.html"

    # DVC's default page loads scripts from the network, which this browser cannot reach.
    project.run("dvc", "plots", "show")
    browser.get(page.as_uri())
    assert any("ERR_NAME_NOT_RESOLVED" in message for message in errors(browser))
    assert browser.execute_script(PLOTS) == []
    shutil.rmtree(page.parent)

    # The working tree.
    done = project.make("--silent", "plots")
    assert (done.stdout, done.stderr) == (f"{page.as_uri()}\n", "")
    copied = tmp_path / "copied"
    shutil.copytree(page.parent, copied)
    plots = open_page(browser, copied / "index.html", len(titles()))
    assert sorted(plot["title"] for plot in plots) == titles()
    for plot in plots:
        assert plot["width"] > 100, plot
        assert plot["marks"] > 0, plot
        assert "main" not in plot["text"], plot
    assert [width > 100 for width in browser.execute_script(IMAGES)] == [True]
    assert [address for address in browser.execute_script(LOADED) if not address.startswith("file:")] == []
    assert errors(browser) == []

    # Two revisions.
    project.set(lr=0.003, epochs=2)
    project.repro()
    done = project.make("--silent", "plots", "BASE=main")
    assert (done.stdout, done.stderr) == (f"{page.as_uri()}\n", "")
    plots = open_page(browser, page, len(titles()))
    assert sorted(plot["title"] for plot in plots) == titles()
    for plot in plots:
        assert "workspace" in plot["text"], plot
        assert "main" in plot["text"], plot
    assert len(browser.execute_script(IMAGES)) == 2
    assert errors(browser) == []

    # `dvc plots diff`, after the template is configured.
    by_make = page.read_text()
    project.run("dvc", "config", "--local", "plots.html_template", "plots/offline.html")
    project.run("dvc", "plots", "diff", "main")
    assert page.read_text() == by_make
    assert project.run("git", "status", "--porcelain", "--", ".dvc", "dvc_plots").stdout == ""


@pytest.mark.browser
def test_a_plot_without_rows_is_not_drawn(project: Project, browser: Chrome) -> None:
    """For example the recall by class of a regression."""
    project.run("python", "-W", "error", "-m", "experiments.plots")
    classes = project.root / "reports/classes.csv"
    classes.write_text(classes.read_text().splitlines()[0] + "\n")
    project.run("dvc", "plots", "show", "--html-template", ".dvc/plots/offline.html")
    plots = open_page(browser, project.root / "dvc_plots/index.html", len(titles()) - 1)
    assert len(plots) == len(titles()) - 1
    assert browser.execute_script("return document.getElementById('reports_classes_csv').offsetHeight") == 0
    assert errors(browser) == []


def test_an_unknown_revision_is_refused(project: Project) -> None:
    assert "unknown Git revision '--help'" in project.make("plots", "BASE=--help", fails=True).stderr
