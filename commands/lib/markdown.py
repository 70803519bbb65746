"""Tables in GitHub's Markdown."""

import re
from collections.abc import Sequence


def row(*cells: object) -> str:
    """A row of a table."""
    return "| " + " | ".join(" ".join(str(cell).replace("|", "\\|").split()) for cell in cells) + " |"


def table_of(head: Sequence[str], lines: Sequence[str]) -> str:
    """A table of rows; the first column stands left, all others right."""
    return "\n".join([row(*head), row(":--", *["--:"] * (len(head) - 1)), *lines])


def plain(text: str) -> str:
    """A text that Markdown shows as it is, in a table or not."""
    return re.sub(r"([\\`*_{}\[\]<>#~&])", r"\\\1", text)
