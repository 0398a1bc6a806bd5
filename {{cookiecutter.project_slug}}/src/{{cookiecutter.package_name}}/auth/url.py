"""SUPABASE_URL and SUPABASE_JWKS_URL, as somebody pasted them."""

import re
from contextlib import suppress
from typing import Annotated

from pydantic import AfterValidator, HttpUrl, ValidationError

# A user, a query, a placeholder.
_WRONG = re.compile(r"(?i)[@?#<>{}]|/(your|project)[-_]?(project)?[-_]?(ref|id)?\.supabase\.co")

# Hosts that nobody can have on the internet: this machine, private addresses, names of a cluster.
_INSIDE = re.compile(
    r"(127|10|192\.168|172\.(1[6-9]|2\d|3[01]))\.[\d.]+|\[::1\]|[\w-]+|.+\.(localhost|local|internal)"
)


def _check(text: str) -> str:
    with suppress(ValidationError):  # its text has the value
        url = HttpUrl(text.strip(" \t\r\n'\""))
        if url.scheme == "http" and not _INSIDE.fullmatch(url.host or ""):
            raise ValueError("keys that come by http can be anybody's. Write https")
        if not _WRONG.search(text):
            return str(url)
    raise ValueError("it is not like https://PROJECTREF.supabase.co, with your project's ref")


def _project(text: str) -> str:
    if url := re.fullmatch(r"(\w+://[^/]+)/(\w+/v1/?)?", _check(text)):
        return url[1]
    raise ValueError("it has a path. Write the Project URL, https://PROJECTREF.supabase.co")


ProjectURL = Annotated[str, AfterValidator(_project)]
WebURL = Annotated[str, AfterValidator(_check)]
