"""Messages about refused values: what was found, what is expected, the nearest name.

Own code: the messages of fastjsonschema and pydantic neither suggest names nor give a key's description.
"""

import difflib
import json
from collections.abc import Collection, Mapping
from typing import Any

MOST_NAMED = 12
_IF_NEW = " (one that is new in the code is known after `make schema`)"


def unknown(kind: str, name: object, known: Collection[str]) -> str:
    """Describe a key or option that does not exist: "unknown key `lrr`, did you mean `lr`?"."""
    return f"unknown {kind} `{name}`{_suggestion(str(name), known, listed=kind == 'option')}{_IF_NEW}"


def mismatch(value: Any, schema: Mapping[str, Any]) -> str:
    """Describe a value that does not fit the schema of its key."""
    names = choices(schema)
    for name in value if isinstance(value, list) else [value]:
        if names and isinstance(name, str) and name not in names:
            return f"unknown name `{name}`{_suggestion(name, names, listed=True)}{_IF_NEW}"
    return f"found {shown(value)}, expected {expected(schema)} ({schema['description']})"


def shown(value: Any) -> str:
    """Return a value as it stands in YAML, shortened to 60 characters."""
    text = "null" if value is None else json.dumps(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def expected(schema: Mapping[str, Any]) -> str:
    """Describe a schema: "a number above 0", "a list, each a whole number of at least 1"."""
    if "anyOf" in schema:
        return ", or ".join(expected(option) for option in schema["anyOf"])
    if "enum" in schema:
        return f"a name such as {schema['enum'][0]}"
    if "items" in schema:
        least, most = schema.get("minItems"), schema.get("maxItems")
        size = f" of {most} items" if least == most and most else f" of at most {most} items" if most else ""
        return f"a list{size}, each {expected(schema['items'])}"
    kind = {
        "integer": "a whole number",
        "number": "a number",
        "string": "a name",
        "null": "null",
        "object": "a mapping of options",
        "boolean": "true or false",
    }.get(str(schema.get("type", "")), "a number or null" if isinstance(schema.get("type"), list) else "a value")
    limits = {
        "exclusiveMinimum": "above",
        "minimum": "of at least",
        "maximum": "at most",
        "exclusiveMaximum": "below",
    }
    ranges = [f"{words} {shown(schema[limit])}" for limit, words in limits.items() if limit in schema]
    return f"{kind} {' and '.join(ranges)}".rstrip()


def choices(schema: Mapping[str, Any]) -> list[str]:
    """Return the names that a key, or each item of its list, may have; none if it takes any text."""
    for option in [schema, *schema.get("anyOf", [])]:
        names = option.get("enum") or option.get("items", {}).get("enum")
        if names:
            return list(names)
    return []


def _suggestion(name: str, known: Collection[str], *, listed: bool) -> str:
    """Return the nearest names, or else, if `listed`, the first ones."""
    folded = {choice.casefold(): choice for choice in known}
    close = difflib.get_close_matches(name.casefold(), folded, n=2, cutoff=0.65)
    if close:
        return f", did you mean {' or '.join(f'`{folded[match]}`' for match in close)}?"
    if not listed:
        return ""
    first, more = list(known)[:MOST_NAMED], len(known) - MOST_NAMED
    return f"; expected one of {', '.join(first)}" + (
        f" and {more} more, which params.schema.json lists" if more > 0 else ""
    )
