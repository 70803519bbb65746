"""JSON that shows whether it still is what was written: its last field, `sha256`, is the hash of all the others.

With the hashes of other files among those fields, one small file vouches for a whole folder, and every reader can hold
to one rule: nothing is interpreted before its hash is right.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any


def seal(fields: Mapping[str, Any]) -> str:
    """The fields as indented JSON, in their order, and their hash behind them."""
    return json.dumps({**fields, "sha256": _digest(fields)}, indent=2, allow_nan=False) + "\n"


def unseal(text: str | bytes) -> dict[str, Any]:
    """The fields of a sealed text, without the hash.

    Raises:
        ValueError: not JSON, not sealed, or not what was sealed.
    """
    try:
        fields = json.loads(text)
        if not isinstance(fields, dict) or fields.pop("sha256", None) != _digest(fields):
            raise ValueError("changed since it was written: its sha256 is another one")
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    return fields


def _digest(fields: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True, allow_nan=False).encode()).hexdigest()
