"""GitHub's Markdown: tables and escaped text."""

import re
from collections.abc import Sequence


def row(*cells: object) -> str:
    """Format a row of a table."""
    return "| " + " | ".join(" ".join(str(cell).replace("|", "\\|").split()) for cell in cells) + " |"


def table_of(head: Sequence[str], lines: Sequence[str]) -> str:
    """Join rows to a table. The first column is aligned left, all others right."""
    return "\n".join([row(*head), row(":--", *["--:"] * (len(head) - 1)), *lines])


def plain(text: str) -> str:
    """Escape a text so that Markdown shows it literally, on one line, in a table or elsewhere."""
    return re.sub(r"([\\`*_{}\[\]<>#~&$])", r"\\\1", " ".join(text.split()))
