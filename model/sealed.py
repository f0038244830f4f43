"""JSON objects that carry the SHA-256 of all their rest, so that what was altered is not taken for what was meant.

Knows nothing of what they say.
"""

import hashlib
import json

from pydantic import JsonValue

DIGEST = "digest"


def write_sealed(rest: dict[str, JsonValue]) -> str:
    """Write JSON that carries its own digest, as its last entry."""
    return json.dumps({**rest, DIGEST: _digest(rest)}, indent=1, ensure_ascii=False) + "\n"


def is_as_written(content: dict[str, JsonValue]) -> bool:
    """Say whether an object has the digest that it carries; one that carries none was altered too."""
    rest = {name: value for name, value in content.items() if name != DIGEST}
    return content.get(DIGEST) == _digest(rest)


def _digest(rest: dict[str, JsonValue]) -> str:
    """Return the SHA-256 of JSON, whatever the order of its keys and the blanks between."""
    plain = json.dumps(rest, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(plain.encode()).hexdigest()
