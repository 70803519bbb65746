"""Parsing of command lines, and types for arguments."""

import argparse
from pathlib import Path
from typing import NoReturn

from stages.lib.core.errors import UserError


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` whose errors are one line and exit code 1, as those of every command here.

    Raises:
        UserError: an argument is missing, unknown or invalid.
    """

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; -h shows the usage")


def documented(module: str, docstring: str) -> Parser:
    """Make a parser for a module that runs with `python -m`; its help begins with the module's docstring."""
    return Parser(
        prog=f"python -m {module}", description=docstring, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def new_folder(text: str) -> Path:
    """Parse the path of a folder that does not exist yet."""
    if Path(text).exists():
        raise argparse.ArgumentTypeError(f"{text} exists, expected the name of a new folder")
    return Path(text)


def positive(text: str) -> int:
    """Parse a whole number of at least 1."""
    if not (text.isascii() and text.isdecimal()) or not int(text):
        raise argparse.ArgumentTypeError(f"found `{text}`, expected a whole number of at least 1")
    return int(text)
