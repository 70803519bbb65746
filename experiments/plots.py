"""Write a page template with which DVC's plots are drawn without a network.

    make plots BASE=main          (python -m experiments.plots)

DVC's own page loads Vega from a content delivery network, and stays empty where there is none. This template holds
Vega, Vega-Lite and vega-embed, as the package vl-convert-python brings them.

Out: .dvc/plots/offline.html, for `dvc plots show` and `dvc plots diff`, once as `--html-template
     .dvc/plots/offline.html`, or always after `dvc config --local plots.html_template plots/offline.html`.
"""

from stages.lib.core.process import run

from pathlib import Path

from dvc_render.html import PAGE_HTML

from stages.lib.core.errors import UserError
from stages.lib.core.files import write_text

TEMPLATE = Path(".dvc/plots/offline.html")
# DVC's page calls this for each plot, with an empty specification for a file without rows, such as reports/classes.csv
# of a regression. Vega's editor, in the menu of each plot, would need a network.
VEGA_EMBED = """
window.vegaEmbed = (place, spec) => {
  if (spec.$schema) vegaEmbed(place, spec, {actions: {editor: false}});
};
"""


def main() -> None:
    try:
        from vl_convert import javascript_bundle
    except ImportError as error:
        raise UserError("vl-convert-python: not installed; pip install vl-convert-python") from error
    head = (
        f"<script>{javascript_bundle(VEGA_EMBED)}</script>\n    <style>.vega-embed {{ vertical-align: top; }}</style>"
    )
    write_text(TEMPLATE, PAGE_HTML.replace("{scripts}", head))


if __name__ == "__main__":
    run(main)
