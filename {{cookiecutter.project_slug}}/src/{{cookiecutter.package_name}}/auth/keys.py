"""The keys that the issuer signs with."""

import asyncio
import math
from collections.abc import Mapping
from time import monotonic

import httpx
import jwt
import structlog

# Seconds. How old keys get before they are fetched again, in the background: what is revoked is refused
# after as long. Supabase's servers keep a set for 10 minutes themselves.
_REFRESH = 300

# Seconds for which keys are good while the issuer can't be reached.
_LAST = 3600

# Seconds between two attempts, whatever came of the first: anybody can make up the id of a key.
_PAUSE = 10

# Seconds of an attempt.
_TIMEOUT = 3

log = structlog.get_logger()


class IssuerDownError(Exception):
    """The keys can't be fetched, and none are left: nobody's token can be verified."""


class Keys:
    """The issuer's public keys, fetched when they are needed."""

    def __init__(self, issuer: str, url: str | None = None) -> None:
        self.issuer = issuer
        self._url = url or f"{issuer}/.well-known/jwks.json"
        self._keys: Mapping[str, jwt.PyJWK] = {}
        self._fetched_at = self._tried_at = -math.inf
        self._failed = False
        self._fetching: asyncio.Task[None] | None = None

    async def find(self, key_id: str) -> jwt.PyJWK | None:
        """The key of this id. None: the issuer has none such."""
        now = monotonic()
        key = self._keys.get(key_id) if now - self._fetched_at < _LAST else None
        if key is None or now - self._fetched_at >= _REFRESH:
            if self._fetching is None and now - self._tried_at >= _PAUSE:
                self._tried_at = now
                self._fetching = asyncio.create_task(self._fetch())
            if key is None and self._fetching is not None:
                await asyncio.shield(self._fetching)  # it is for others too, who stay when one goes
                key = self._keys.get(key_id)
        if key is None and self._failed:
            raise IssuerDownError
        return key

    async def _fetch(self) -> None:
        try:
            client = await asyncio.to_thread(httpx.AsyncClient)  # it reads the machine's CAs
            async with asyncio.timeout(_TIMEOUT), client:
                response = await client.get(self._url)
                response.raise_for_status()
            found = jwt.PyJWKSet.from_json(response.text)
            self._keys = {key.key_id: key for key in found.keys if key.key_id is not None}
            self._fetched_at, self._failed = monotonic(), False
        except (httpx.HTTPError, jwt.PyJWTError, ValueError, OSError) as error:
            self._failed = True
            log.warning("the issuer's keys can't be fetched", url=self._url, reason=repr(error))
        finally:
            self._fetching = None
