"""SUPABASE_URL, as somebody pasted it."""

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator

_LOOPBACK = {"127.0.0.1", "::1", "localhost"}


def _check(text: str) -> str:
    url = urlsplit(text.strip())
    if url.scheme not in ("https", "http") or not url.hostname or url.username or url.query:
        raise ValueError("it is not like https://PROJECTREF.supabase.co, the Project URL")
    if url.scheme == "http" and url.hostname not in _LOOPBACK:
        raise ValueError("keys fetched by http can be anybody's: write https")
    return text.strip().rstrip("/")


WebURL = Annotated[str, AfterValidator(_check)]
