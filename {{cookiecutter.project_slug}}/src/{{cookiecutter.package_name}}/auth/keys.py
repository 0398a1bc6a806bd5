"""The keys that the issuer signs with."""

import asyncio
import math
import ssl
from contextlib import suppress
from time import monotonic
from urllib.request import proxy_bypass

import httpx
import jwt
import structlog
from fastapi.exceptions import HTTPException

# With HS256 whoever can verify can sign, and a public key would do for a secret.
ALGORITHMS = ("ES256", "RS256")

# Seconds of age: then keys are fetched again, in the background; then a request waits for it, or a quiet
# night would keep what was revoked (Supabase's servers keep a set as long); then they are good no more.
_REFRESH, _STALE, _LAST = 300, 600, 3600

# Seconds of an attempt, and between two, whatever came of the first: anybody can make up the id of a key.
_TIMEOUT, _PAUSE = 3, 10

# Requests that wait for one attempt where there are keys: a choice. All others can be served meanwhile,
# and made-up ids must not take their places.
_WAITING = 20

log = structlog.get_logger()


class Keys:
    """The issuer's public keys, fetched when they are needed."""

    def __init__(self, issuer: str, url: str | None = None) -> None:
        self.issuer = issuer
        self._url = url or f"{issuer}/.well-known/jwks.json"
        self._tls = ssl.create_default_context()  # it reads the machine's CAs: here, and not later
        self._keys: dict[str, jwt.PyJWK] = {}
        self._fetched_at = self._tried_at = -math.inf
        self.failure: str | None = None
        """Why there are no newer ones."""
        self._waiting = 0
        self._fetching: asyncio.Task[None] | None = None

    async def find(self, key_id: str) -> jwt.PyJWK | None:
        """The key of this id. None: the issuer has none such. 503: nobody knows."""
        now, told = monotonic(), {"Retry-After": str(_PAUSE)}
        if (age := now - self._fetched_at) >= _LAST:
            self._keys = {}
        key = self._keys.get(key_id)
        if (key is None or age >= _REFRESH) and now - self._tried_at >= _PAUSE:
            self._tried_at = now
            self._fetching = asyncio.create_task(self._refresh())
        if self._fetching and (key is None or (age >= _STALE and not self.failure)):
            if key is None and self._keys and self._waiting >= _WAITING:
                raise HTTPException(503, "This token can't be verified yet. Try again.", told)
            self._waiting += 1
            try:
                await asyncio.shield(self._fetching)  # it is for others too, who stay when one goes
            finally:
                self._waiting -= 1
            key = self._keys.get(key_id)
        if key is None and self.failure:
            raise HTTPException(503, "Nobody's token can be verified now. Try again.", told)
        return key

    async def aclose(self) -> None:
        if self._fetching:
            self._fetching.cancel()
            await asyncio.wait([self._fetching])

    async def _refresh(self) -> None:
        await self.fetch()
        if self.failure:
            log.warning("the issuer's keys can't be fetched", url=self._url, reason=self.failure)
        self._fetching = None

    async def fetch(self) -> dict[str, jwt.PyJWK]:
        """Make an attempt, and give back what is there after it."""
        try:
            # For a SOCKS proxy in the environment httpx fails before it looks whether NO_PROXY has the host.
            trust = not proxy_bypass(httpx.URL(self._url).host)
            async with (
                asyncio.timeout(_TIMEOUT),
                httpx.AsyncClient(verify=self._tls, trust_env=trust) as client,
            ):
                response = await client.get(self._url)
            if response.status_code != 200:  # a redirect too
                raise ValueError(f"the answer is {response.status_code}")
            self._keys = _usable(response.json()["keys"])
            self._fetched_at, self.failure = monotonic(), None
        except Exception as error:  # noqa: BLE001  whatever it is, there is a next time
            self.failure = repr(error)[:300]  # it may quote what came
        return self._keys


def _usable(found: list[dict[str, str]]) -> dict[str, jwt.PyJWK]:
    keys = {}
    for it in found:
        with suppress(Exception):  # whatever is wrong with one, others are good
            key = jwt.PyJWK(it)
            if key.algorithm_name in ALGORITHMS and it.get("use", "sig") == "sig" and "d" not in it:
                keys[it["kid"]] = key
    if not keys:
        todo = "in Supabase's dashboard, under JWT Keys, migrate the secret and rotate the keys"
        raise ValueError(f"no key is for ES256 or RS256: {todo}")
    return keys
