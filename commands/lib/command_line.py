"""The parser of command lines, for the commands that take arguments, and types of arguments."""

import argparse
from pathlib import Path
from typing import NoReturn

from stages.lib.core.errors import UserError


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` that reports a mistake in one line with exit code 1, as every command here does.

    Raises:
        UserError: an argument is missing, unknown or refused by its type.
    """

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; -h tells more")


def documented(module: str, docstring: str) -> Parser:
    """A parser whose help begins with the docstring of a module that is run with `python -m`."""
    return Parser(
        prog=f"python -m {module}", description=docstring, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def new_folder(text: str) -> Path:
    """The path of a folder that is to be written, and not there yet."""
    if Path(text).exists():
        raise argparse.ArgumentTypeError(f"{text} exists, expected the name of a folder that is not there yet")
    return Path(text)


def positive(text: str) -> int:
    """A whole number of at least 1."""
    if not (text.isascii() and text.isdecimal()) or not int(text):
        raise argparse.ArgumentTypeError(f"found `{text}`, expected a whole number of at least 1")
    return int(text)
