"""Write a page template that draws DVC's plots without a network.

    make plots BASE=main          (python -m experiments.plots)

DVC's own page loads Vega from a content delivery network, and is empty without a connection. This template contains
Vega, Vega-Lite and vega-embed, from the package vl-convert-python.

Out: .dvc/plots/offline.html, for `dvc plots show` and `dvc plots diff`: once with `--html-template
     .dvc/plots/offline.html`, always after `dvc config --local plots.html_template plots/offline.html`.
"""

from stages.lib.core.process import run

from pathlib import Path

from dvc_render.html import PAGE_HTML

from stages.lib.core.errors import UserError
from stages.lib.core.files import write_text

TEMPLATE = Path(".dvc/plots/offline.html")
# DVC's page calls this for each plot. A file without rows, such as a regression's reports/classes.csv, has an empty
# specification. The Vega editor in the menu of each plot would need a network.
VEGA_EMBED = """
window.vegaEmbed = (element, spec) => {
  if (spec.$schema) vegaEmbed(element, spec, {actions: {editor: false}});
};
"""


def main() -> None:
    try:
        from vl_convert import javascript_bundle
    except ImportError as error:
        raise UserError("vl-convert-python is not installed; run `pip install vl-convert-python`") from error
    head = (
        f"<script>{javascript_bundle(VEGA_EMBED)}</script>\n    <style>.vega-embed {{ vertical-align: top; }}</style>"
    )
    write_text(TEMPLATE, PAGE_HTML.replace("{scripts}", head))


if __name__ == "__main__":
    run(main)
