"""The page, with the policy that allows its own script and style and nothing else."""

import base64
import hashlib
import re
from pathlib import Path

_PAGE = Path(__file__).with_name("page.html")


def page() -> bytes:
    """The HTML of the page, the same for everybody: what differs is fetched by its script."""
    return _PAGE.read_bytes()


def page_policy(html: bytes) -> str:
    """The Content-Security-Policy of a page whose script and style are inside of it, by their checksums."""
    return "; ".join(
        [
            "default-src 'none'",
            f"script-src {_sources(html, b'script')}",
            f"style-src {_sources(html, b'style')}",
            "img-src data:",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        ]
    )


REPORT_POLICY = (
    "sandbox allow-scripts; default-src 'none'; media-src blob:; img-src data:; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Of a report, which shows the name of the upload. In the sandbox it has no origin, so no access to the server."""

LINK_POLICY = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
"""Of the page that only leads to the page."""

OTHER_POLICY = "default-src 'none'; sandbox; frame-ancestors 'none'"
"""Of everything else."""


def _sources(html: bytes, tag: bytes) -> str:
    sources = []
    for content in re.findall(rb"<%s>(.*?)</%s>" % (tag, tag), html, flags=re.DOTALL):
        checksum = base64.b64encode(hashlib.sha256(content).digest()).decode()
        sources.append(f"'sha256-{checksum}'")
    return " ".join(sources)
