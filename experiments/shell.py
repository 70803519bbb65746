"""Commands of git and DVC whose output is read."""

import subprocess

from stages.lib.core.errors import UserError


def output(*command: str) -> str:
    """Run a command and return its standard output.

    Raises:
        UserError: the command fails, with its message.
    """
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    if done.returncode:
        message = (done.stderr or done.stdout).strip().removeprefix("ERROR: ")
        raise UserError(f"{' '.join(command[:3])}: {message}")
    return done.stdout


def file_at(commit: str, path: str) -> str:
    """Return the text of a file in a commit.

    Raises:
        FileNotFoundError: the commit has no such file.
    """
    try:
        return output("git", "show", f"{commit}:{path}")
    except UserError as error:
        raise FileNotFoundError(path) from error
