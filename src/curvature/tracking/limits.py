"""What MLflow takes in one request, and how names and values are made to fit."""

import posixpath
import re
from collections.abc import Iterator, Mapping

MAX_METRICS, MAX_FIELDS, MAX_REQUEST_CHARACTERS = 1000, 100, 200_000
MAX_KEY, MAX_PARAM, MAX_TAG = 250, 6000, 8000


def requests(fields: Mapping[str, str], limit: int) -> Iterator[dict[str, str]]:
    """:func:`valid_fields` in parts that one request can carry."""
    part: dict[str, str] = {}
    characters = 0
    for key, value in valid_fields(fields, limit).items():
        if len(part) == MAX_FIELDS or (part and characters + len(key) + len(value) > MAX_REQUEST_CHARACTERS):
            yield part
            part, characters = {}, 0
        part[key] = value
        characters += len(key) + len(value)
    if part:
        yield part


def valid_fields(fields: Mapping[str, str], limit: int) -> dict[str, str]:
    """``fields`` with keys as MLflow takes them and values of at most ``limit`` characters."""
    return {valid_key(key): value[:limit] for key, value in fields.items()}


def valid_key(name: str) -> str:
    """``name`` as MLflow takes it: letters, digits, ``_-./: ``, a normal relative path, at most 250 characters."""
    cleaned = re.sub(r"[^\w.\-/ :]", "_", name)
    normal = posixpath.normpath(cleaned).replace("..", "__").strip("/")
    return (normal if normal not in ("", ".") else "_")[:MAX_KEY]
