"""The server that a repository comes from: what it is told of the token, and where it says that a repository is now."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote, urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from sandbox.programs.failures import ProgramFailed
from sandbox.programs.protocol import FAILED

REDIRECT_TIMEOUT_S = 15
MOVED = "moved"  # an error that is never reported: with a token it is followed by `moved_to`


def take_token(path: Path) -> str | None:
    """The token; its file is gone afterwards. None when an earlier attempt took it."""
    try:
        return path.read_text(encoding="utf-8").strip() or None
    except FileNotFoundError:
        return None
    finally:
        path.unlink(missing_ok=True)


def basic(token: str) -> str:
    """GitHub's smart HTTP takes a token as the password of any user."""
    return base64.b64encode(f"x-access-token:{token}".encode()).decode("ascii")


def redacted(text: str, token: str | None) -> str:
    """`text` without the token, in any form it travels in."""
    if token:
        alone = base64.b64encode(token.encode()).decode("ascii")
        for form in (basic(token), alone, quote(token, safe=""), quote(token), token):
            text = text.replace(form, "[REDACTED]")
    return text


def origin_of(url: str) -> str:
    """Scheme and host of the address."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def fetch_settings(url: str, token: str | None) -> dict[str, str]:
    """The settings of the one git process that talks to the server."""
    schemes = ["file"] if urlsplit(url).scheme == "file" else ["https", "http"]
    settings = {f"protocol.{name}.allow": "always" for name in schemes}
    # git would send the header to whomever it is redirected to: with a token it follows no redirect (see moved_to)
    settings["http.followRedirects"] = "false" if token else "initial"
    if token:
        settings[f"http.{origin_of(url)}/.extraHeader"] = f"Authorization: Basic {basic(token)}"
    return settings


class _StayHere(HTTPRedirectHandler):
    """Makes a redirect an answer like any other."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def moved_to(url: str, token: str) -> str:
    """Where a renamed repository is now, asked with the token. Raises ProgramFailed when that is another server."""
    question = Request(f"{url}/info/refs?service=git-upload-pack")  # noqa: S310 - http(s) was checked
    question.add_unredirected_header("Authorization", f"Basic {basic(token)}")
    location = ""
    try:
        build_opener(_StayHere).open(question, timeout=REDIRECT_TIMEOUT_S).close()
    except HTTPError as answer:
        location = answer.headers.get("Location") or ""
        answer.close()
    except OSError as error:
        raise ProgramFailed(FAILED, f"The repository has moved, and its new address is not known: {error}") from None
    new_url = location.partition("/info/refs")[0]
    if not new_url.startswith(f"{origin_of(url)}/"):
        raise ProgramFailed("refused", "The repository has moved to another server, which must not see the token.")
    return new_url
