"""The parser of command lines, for the commands that take arguments."""

import argparse
from typing import NoReturn

from stages.lib.stage import UserError


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` that reports a mistake in one line with exit code 1, as every command here does.

    Raises:
        UserError: an argument is missing, unknown or refused by its type.
    """

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; -h tells more")
