"""Headers that tell browsers what an answer may do: nothing, but for the pages that say otherwise."""

import base64
import hashlib
import re

PROTECTION = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
)
POLICY_HEADER = "Content-Security-Policy"
REPORT_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; frame-ancestors 'none'; sandbox"
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

_POLICY = (POLICY_HEADER.lower().encode(), b"default-src 'none'; frame-ancestors 'none'")
_HTTPS_ONLY = (b"strict-transport-security", b"max-age=31536000")
_INLINE_SCRIPT = re.compile(r"<script>(.*?)</script>", re.DOTALL)


def protect(headers: list[tuple[bytes, bytes]], scheme: str) -> None:
    """Add the headers that every answer has; a policy of its own stays as it is."""
    headers.extend(PROTECTION)
    if _POLICY[0] not in [name.lower() for name, _ in headers]:
        headers.append(_POLICY)
    if scheme == "https":
        headers.append(_HTTPS_ONLY)


def policy_of_page(page: str) -> str:
    """Return the policy of a page that uses this server's files and its own inline scripts, and no others."""
    digests = (hashlib.sha256(script.encode()).digest() for script in _INLINE_SCRIPT.findall(page))
    scripts = " ".join(["'self'", *(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)])
    return (
        f"default-src 'none'; script-src {scripts}; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
