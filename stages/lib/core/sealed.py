"""JSON with a checksum: its last field, `sha256`, is the hash of all the others.

If those fields hold the hashes of other files, one small file verifies a whole folder. Every reader follows one rule:
no value is used before its hash is verified.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any


def seal(fields: Mapping[str, Any]) -> str:
    """Return the fields as indented JSON, in their order, followed by their hash."""
    return json.dumps({**fields, "sha256": _digest(fields)}, indent=2, allow_nan=False) + "\n"


def unseal(text: str | bytes) -> dict[str, Any]:
    """Return the fields of a sealed text, without the hash.

    Raises:
        ValueError: the text is not JSON, not sealed, or was changed.
    """
    try:
        fields = json.loads(text)
        if not isinstance(fields, dict) or fields.pop("sha256", None) != _digest(fields):
            raise ValueError("changed since it was written: its sha256 does not match")
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    return fields


def _digest(fields: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True, allow_nan=False).encode()).hexdigest()
