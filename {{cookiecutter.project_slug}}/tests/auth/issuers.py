"""An issuer that is not always well, and a clock that runs ahead."""

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler

import pytest
from fastapi.exceptions import HTTPException

from {{ cookiecutter.package_name }}.auth.keys import Keys
from {{ cookiecutter.package_name }}.auth.tokens import verify

from devstack.issuer import Issuer, serving


class Clock:
    """What `auth.keys` takes for the time."""

    def __init__(self) -> None:
        self.passed = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.passed


class Moody(Issuer):
    """An issuer that answers by a status, and not before it may."""

    status = 200

    def __init__(self) -> None:
        super().__init__()
        self.may_answer = threading.Event()
        self.may_answer.set()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        self.may_answer.wait(10)
        if self.status == 200:
            return super().answer(handler)
        handler.send_response(self.status)
        handler.end_headers()

    async def is_asked(self, times: int = 1) -> None:
        """Wait until it is."""
        async with asyncio.timeout(10):
            while self.asked < times:
                await asyncio.sleep(0.01)


@contextmanager
def keys_of(issuer: Issuer) -> Iterator[Keys]:
    with serving(issuer):
        yield Keys(f"{issuer.url}/auth/v1")


async def refused(keys: Keys, token: str) -> int:
    with pytest.raises(HTTPException) as refusal:
        await verify(token, keys)
    return refusal.value.status_code


async def fetched(keys: Keys) -> None:
    """Wait for what goes on in the background."""
    if keys._fetching:
        await keys._fetching
