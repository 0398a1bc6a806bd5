"""The issuer's keys, whatever is made up, broken, slow or in between."""

import asyncio
import json
import os
import ssl
import time
import warnings
from base64 import b64encode
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import jwt
import pytest
import trustme
from cryptography.hazmat.primitives.asymmetric import rsa

from orders_api.auth import keys
from orders_api.auth.dependencies import CallerDep
from orders_api.auth.keys import Keys
from orders_api.auth.tokens import verify
from orders_api.main import create_app
from orders_api.settings import Settings

from devstack.issuer import Issuer, make_key, public, serve, serving
from tests.auth.issuers import Clock, Moody, fetched, keys_of, refused
from tests.support import running


class Odd(Issuer):
    """An issuer that answers something else."""

    def __init__(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        super().__init__()
        self.status, self.body, self.headers = status, body, headers

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(self.status)
        for name, value in self.headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(self.body)


async def test_who_goes_away_takes_nobody_along() -> None:
    issuer = Moody()
    issuer.may_answer.clear()
    with keys_of(issuer) as keys:
        first, second = (asyncio.create_task(verify(issuer.token(), keys)) for _ in range(2))
        await issuer.is_asked()
        first.cancel()
        await asyncio.wait([first])
        issuer.may_answer.set()
        await second
    assert first.cancelled()
    assert issuer.asked == 1


async def test_made_up_key_ids_are_asked_for_once(clock: Clock) -> None:
    """Whether the issuer answers or not: otherwise anybody could have it asked all the time."""
    issuer = Moody()
    with keys_of(issuer) as keys:
        for asked, status, told in ((1, 200, 401), (2, 500, 503), (3, 200, 401)):
            issuer.status = status
            for number in range(1000):
                stranger = Issuer(issuer.url, {**make_key(), "kid": str(number)})
                assert await refused(keys, stranger.token()) == told
            assert issuer.asked == asked
            await verify(issuer.token(), keys)  # whose key is known
            clock.passed += 10


async def test_made_up_key_ids_take_nobodys_place(clock: Clock) -> None:
    """Each that waits for a slow issuer is one of the requests in flight, which are limited."""
    issuer = Moody()
    with keys_of(issuer) as keys:
        await verify(issuer.token(), keys)
        clock.passed += 10
        issuer.may_answer.clear()
        made_up = Issuer(issuer.url).token()
        strangers = [asyncio.create_task(refused(keys, made_up)) for _ in range(100)]
        await issuer.is_asked(2)
        assert sum(it.done() for it in strangers) == 80
        await verify(issuer.token(), keys)
        issuer.may_answer.set()
        told = await asyncio.gather(*strangers)
    assert (told.count(401), told.count(503)) == (20, 80)


async def test_a_standby_key_is_good_at_once_and_a_revoked_one_until_the_refresh(
    clock: Clock,
) -> None:
    issuer = Issuer()
    standby, later = make_key(), make_key("RS256")
    issuer.keys.append(public(standby))
    with keys_of(issuer) as keys:
        old = issuer.token()
        await verify(old, keys)
        issuer.key = standby
        await verify(issuer.token(), keys)
        assert issuer.asked == 1

        issuer.key, issuer.keys = later, [public(later)]  # in a hurry: standby for no time
        clock.passed += 10
        await verify(issuer.token(), keys)
        assert issuer.asked == 2
        assert await refused(keys, old) == 401


async def test_after_a_quiet_night_a_revoked_key_is_not_good_once_more(clock: Clock) -> None:
    issuer = Issuer()
    with keys_of(issuer) as keys:
        revoked = issuer.token()
        await verify(revoked, keys)
        issuer.keys = [public(make_key())]
        clock.passed = 1800
        assert await refused(keys, revoked) == 401


@pytest.mark.parametrize(
    ("status", "body", "headers"),
    [
        (500, b"", {}),
        (404, b'{"keys": []}', {}),
        (204, b"", {}),
        (302, b"", {"Location": "/elsewhere"}),
        (200, b"<html>", {}),
        (200, b"[]", {}),
        (200, b"null", {}),
        (200, b"{}", {}),
        (200, b'{"keys": 1}', {}),
        (200, b"\xff", {}),
        (200, b"[" * 100_000, {}),
        (200, b'{"keys": []}', {}),
        (200, b'{"keys": "keys"}', {}),
        (200, b'{"keys": [{"kty": "oct", "k": "c2VjcmV0", "kid": "secret", "alg": "HS256"}]}', {}),
        (200, b'{"keys"', {"Content-Length": "1000"}),
    ],
)
async def test_an_answer_that_is_no_set_of_keys(
    status: int, body: bytes, headers: dict[str, str]
) -> None:
    """503: whether the token is good, nobody knows. And a redirect is not followed."""
    issuer = Odd(status, body, headers)
    with keys_of(issuer) as keys:
        assert await refused(keys, issuer.token()) == 503
    assert issuer.asked == 1


@pytest.mark.parametrize("trickles", [False, True])
async def test_an_issuer_that_does_not_end_is_given_up(
    monkeypatch: pytest.MonkeyPatch, trickles: bool
) -> None:
    class Slow(Issuer):
        def answer(self, handler: BaseHTTPRequestHandler) -> None:
            handler.send_response(200)
            handler.end_headers()
            for _ in range(50):
                handler.wfile.write(b" " * trickles)
                time.sleep(0.1)

    monkeypatch.setattr(keys, "_TIMEOUT", 0.5)
    issuer = Slow()
    with keys_of(issuer) as slow:
        begun = time.monotonic()
        assert await refused(slow, issuer.token()) == 503
        assert time.monotonic() - begun < 3


async def test_an_issuer_that_is_not_there() -> None:
    issuer = Issuer("http://127.0.0.1:1")
    keys = Keys(f"{issuer.url}/auth/v1")
    assert await refused(keys, issuer.token()) == 503


async def test_a_key_that_can_not_be_used_harms_no_other() -> None:
    issuer, secret = Issuer(), b"secret" * 6
    ours = public(issuer.key)
    broken = [
        {"kty": "oct", "k": b64encode(secret).decode(), "kid": "secret", "alg": "HS256"},
        {**ours, "kty": ["EC"]},
        {**ours, "alg": {}},
        {**ours, "x": "AAAA"},
        {**ours, "crv": "P-1"},
        {**ours, "kid": ["a"]},
        {**ours, "alg": "RS256"},
        {**public(make_key("RS256")), "n": "AQAB"},
        {"kty": "OKP", "crv": "Ed25519", "x": "AAAA", "kid": "a"},
        {},
        [],
        None,
        "text",
    ]
    private = {**make_key("RS256"), "kid": "private"}
    encrypting = {**make_key("RS256"), "kid": "encrypting"}
    issuer.keys = [
        *broken,  # type: ignore[list-item]
        private,
        {**public(encrypting), "use": "enc"},
        ours,
        *broken,  # type: ignore[list-item]
    ]
    with keys_of(issuer) as keys:
        await verify(issuer.token(), keys)
        for issuer.key in (private, encrypting):
            assert await refused(keys, issuer.token()) == 401
        claims = jwt.decode(issuer.token(), options={"verify_signature": False})
        signed = jwt.encode(claims, secret, "HS256", headers={"kid": "secret"})
        assert await refused(keys, signed) == 401
    assert issuer.asked == 1


async def test_a_key_that_is_too_short_proves_nothing() -> None:
    short = rsa.generate_private_key(65537, 1024)
    jwk = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(short))
    issuer = Issuer("", {**jwk, "kid": "short", "alg": "RS256"})
    with keys_of(issuer) as keys, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert await refused(keys, issuer.token()) == 401


async def test_an_answer_without_a_key_takes_no_key_away(clock: Clock) -> None:
    """A proxy or a restore that answers `{"keys": []}` would be a 401 for everybody."""
    issuer = Issuer()
    with keys_of(issuer) as keys:
        token = issuer.token(seconds=7200)
        await verify(token, keys)
        for issuer.keys, clock.passed in (([], 400.0), ([{"kty": "oct"}], 3500.0)):
            await verify(token, keys)
            await fetched(keys)
            await verify(token, keys)
        assert issuer.asked == 3
        clock.passed = 3601
        assert await refused(keys, token) == 503


async def test_a_project_with_the_legacy_secret_is_told_what_to_do(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It signs with HS256, and publishes no key."""
    issuer = Issuer()
    issuer.keys = []
    with keys_of(issuer) as keys:
        assert await refused(keys, issuer.token()) == 503
    assert "migrate the secret" in capsys.readouterr().out


async def test_an_issuer_whose_certificate_nobody_knows_is_not_believed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Or whoever is between it and the service signs for anybody."""
    ca, tls = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("127.0.0.1").configure_cert(tls)
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    issuer = Issuer()
    with serve(issuer) as server:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
        issuer.url = f"https://127.0.0.1:{server.server_port}"
        assert await refused(Keys(f"{issuer.url}/auth/v1"), issuer.token()) == 503
        assert "CERTIFICATE_VERIFY_FAILED" in capsys.readouterr().out
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        await verify(issuer.token(), Keys(f"{issuer.url}/auth/v1"))
        server.shutdown()


@pytest.mark.parametrize("variable", ["ALL_PROXY", "http_proxy"])
async def test_no_proxy_is_asked_about_what_no_proxy_names(
    monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """And one that the machine names is asked, or refused with a reason: no SOCKS here."""
    monkeypatch.setenv(variable, "socks5://127.0.0.1:1")
    issuer = Issuer()
    with keys_of(issuer) as keys:
        await verify(issuer.token(), keys)
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name)
        assert await refused(Keys(keys.issuer), issuer.token()) == 503


async def test_a_proxy_of_the_environment_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [it for it in os.environ if it.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    issuer = Issuer("http://auth.internal")
    with serving(issuer) as proxy:
        monkeypatch.setenv("http_proxy", proxy)
        await verify(issuer.token(), Keys(f"{issuer.url}/auth/v1"))
    assert issuer.asked == 1


async def test_nothing_is_pending_when_the_service_ends(settings: Settings) -> None:
    """It would say: Task was destroyed but it is pending."""
    issuer = Moody()
    issuer.may_answer.clear()
    with serving(issuer):
        app = create_app(settings.model_copy(update={"supabase_url": issuer.url}))

        @app.get("/test/caller")
        async def read_caller(caller: CallerDep) -> None: ...

        async with running(app) as client:
            headers = {"Authorization": f"Bearer {issuer.token()}"}
            request = asyncio.create_task(client.get("/test/caller", headers=headers))
            await issuer.is_asked()
            request.cancel()
            assert _fetching()
        assert not _fetching()


def _fetching() -> list[str]:
    return [it for it in map(repr, asyncio.all_tasks()) if "Keys._refresh" in it]
