"""SUPABASE_URL and SUPABASE_JWKS_URL, as somebody pasted them."""

import re
from typing import Annotated

from pydantic import AfterValidator, HttpUrl, ValidationError

# A user, a query, a placeholder.
_WRONG = re.compile(r"[@?#<>{}]|project[-_]?(ref|id)\b|your[-_]?project", re.IGNORECASE)

# Hosts that nobody can have on the internet: this machine, private addresses, names of a cluster.
_INSIDE = re.compile(
    r"(127|10|192\.168|172\.(1[6-9]|2\d|3[01]))\.[\d.]+|\[::1\]|[\w-]+|.+\.(localhost|local|internal)"
)


def _check(text: str) -> HttpUrl:
    try:
        url = None if _WRONG.search(text) else HttpUrl(text.strip(" \t\r\n'\""))
    except ValidationError:  # its text has the value
        url = None
    if url is None:
        raise ValueError("it is not like https://PROJECTREF.supabase.co, with your project's ref")
    if url.scheme == "http" and not _INSIDE.fullmatch(url.host or ""):
        raise ValueError("keys that come by http can be anybody's. Write https")
    return url


def _project(text: str) -> str:
    url = _check(text)
    if not re.fullmatch(r"/?(\w+/v1/?)?", path := url.path or ""):
        raise ValueError("it has a path. Write the Project URL, https://PROJECTREF.supabase.co")
    return str(url).removesuffix(path)


ProjectURL = Annotated[str, AfterValidator(_project)]
WebURL = Annotated[str, AfterValidator(lambda text: str(_check(text)))]
