"""The issuer's keys: fetched once for all, again when they may have changed, and kept while it is down."""

import asyncio
import json
import os
import ssl
import time
import warnings
from base64 import b64encode
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import jwt
import pytest
import trustme
from cryptography.hazmat.primitives.asymmetric import rsa
from fastapi.exceptions import HTTPException

from {{ cookiecutter.package_name }}.auth import keys
from {{ cookiecutter.package_name }}.auth.dependencies import CallerDep
from {{ cookiecutter.package_name }}.auth.keys import Keys
from {{ cookiecutter.package_name }}.auth.tokens import verify
from {{ cookiecutter.package_name }}.main import create_app
from {{ cookiecutter.package_name }}.observe.issuer import issuer as check_issuer
from {{ cookiecutter.package_name }}.observe.patient import Options, Patient
from {{ cookiecutter.package_name }}.settings import Settings

from devstack.issuer import Issuer, make_key, public, serve, serving
from tests.support import running


class Clock:
    """What the module takes for the time."""

    def __init__(self) -> None:
        self.passed = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.passed


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(keys, "monotonic", clock)
    return clock


class Moody(Issuer):
    """An issuer that answers by a status, something else, or late."""

    status = 200
    body: bytes | None = None
    headers: dict[str, str] = {}  # noqa: RUF012
    seconds = 0.0

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        time.sleep(self.seconds)
        if self.status == 200 and self.body is None:
            return super().answer(handler)
        handler.send_response(self.status)
        for name, value in self.headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(self.body or b"")


@contextmanager
def _keys(issuer: Issuer) -> Iterator[Keys]:
    with serving(issuer):
        yield Keys(f"{issuer.url}/auth/v1")


async def _refused(keys: Keys, token: str) -> int:
    with pytest.raises(HTTPException) as refusal:
        await verify(token, keys)
    return refusal.value.status_code


async def _done(keys: Keys) -> None:
    """Wait for what goes on in the background."""
    if keys._fetching:
        await keys._fetching


async def test_all_who_come_at_once_share_one_fetch() -> None:
    issuer = Moody()
    issuer.seconds = 0.2
    with _keys(issuer) as keys:
        token = issuer.token()
        callers = await asyncio.gather(*(verify(token, keys) for _ in range(100)))
    assert len({it.id for it in callers}) == 1
    assert issuer.asked == 1


async def test_who_goes_away_takes_nobody_along() -> None:
    issuer = Moody()
    issuer.seconds = 0.2
    with _keys(issuer) as keys:
        first, second = (asyncio.create_task(verify(issuer.token(), keys)) for _ in range(2))
        await asyncio.sleep(0.1)
        first.cancel()
        await second
    assert first.cancelled()
    assert issuer.asked == 1


async def test_made_up_key_ids_are_asked_for_once(clock: Clock) -> None:
    """Whether the issuer answers or not: otherwise anybody could have it asked all the time."""
    issuer = Moody()
    with _keys(issuer) as keys:
        for asked, status, refused in ((1, 200, 401), (2, 500, 503), (3, 200, 401)):
            issuer.status = status
            for number in range(1000):
                stranger = Issuer(issuer.url, {**make_key(), "kid": str(number)})
                assert await _refused(keys, stranger.token()) == refused
            assert issuer.asked == asked
            await verify(issuer.token(), keys)  # whose key is known
            clock.passed += 10


async def test_made_up_key_ids_take_nobodys_place(clock: Clock) -> None:
    """Each that waits for a slow issuer is one of the requests in flight, which are limited."""
    issuer = Moody()
    with _keys(issuer) as keys:
        await verify(issuer.token(), keys)
        clock.passed += 10
        issuer.seconds = 0.5
        made_up = Issuer(issuer.url).token()
        strangers = [asyncio.create_task(_refused(keys, made_up)) for _ in range(100)]
        await asyncio.sleep(0.2)
        assert sum(it.done() for it in strangers) == 80
        await verify(issuer.token(), keys)
        refused = await asyncio.gather(*strangers)
    assert (refused.count(401), refused.count(503)) == (20, 80)


async def test_a_standby_key_is_good_at_once_and_a_revoked_one_until_the_refresh(
    clock: Clock,
) -> None:
    issuer = Issuer()
    standby, later = make_key(), make_key("RS256")
    issuer.keys.append(public(standby))
    with _keys(issuer) as keys:
        old = issuer.token()
        await verify(old, keys)
        issuer.key = standby
        await verify(issuer.token(), keys)
        assert issuer.asked == 1

        issuer.key, issuer.keys = later, [public(later)]  # in a hurry: standby for no time
        clock.passed += 10
        await verify(issuer.token(), keys)
        assert issuer.asked == 2
        assert await _refused(keys, old) == 401


async def test_keys_are_refreshed_in_the_background(clock: Clock) -> None:
    issuer = Moody()
    with _keys(issuer) as keys:
        revoked = issuer.token()
        await verify(revoked, keys)
        issuer.keys, issuer.seconds = [public(make_key())], 0.5
        clock.passed = 299
        await verify(revoked, keys)
        assert keys._fetching is None
        clock.passed = 301
        begun = time.monotonic()
        await verify(revoked, keys)
        assert time.monotonic() - begun < 0.4
        await _done(keys)
        assert await _refused(keys, revoked) == 401
    assert issuer.asked == 2


async def test_after_a_quiet_night_a_revoked_key_is_not_good_once_more(clock: Clock) -> None:
    issuer = Issuer()
    with _keys(issuer) as keys:
        revoked = issuer.token()
        await verify(revoked, keys)
        issuer.keys = [public(make_key())]
        clock.passed = 1800
        assert await _refused(keys, revoked) == 401


async def test_while_the_issuer_is_down_old_keys_are_good_for_an_hour(clock: Clock) -> None:
    issuer = Moody()
    with _keys(issuer) as keys:
        token = issuer.token(seconds=7200)
        await verify(token, keys)
        issuer.status, issuer.seconds = 502, 0.5
        for clock.passed in (400, 700, 3500):
            begun = time.monotonic()
            await verify(token, keys)
            assert time.monotonic() - begun < 0.4  # nobody waits for an attempt that is in vain
            await _done(keys)
        assert issuer.asked == 4
        clock.passed = 3601
        with pytest.raises(HTTPException) as refusal:
            await verify(token, keys)
        assert refusal.value.status_code == 503
        assert refusal.value.headers == {"Retry-After": "10"}
        issuer.status, issuer.seconds = 200, 0
        assert await _refused(keys, token) == 503  # the pause
        clock.passed += 10
        await verify(token, keys)


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
    issuer = Moody()
    issuer.status, issuer.body, issuer.headers = status, body, headers
    with _keys(issuer) as keys:
        assert await _refused(keys, issuer.token()) == 503
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
    with _keys(issuer) as slow:
        begun = time.monotonic()
        assert await _refused(slow, issuer.token()) == 503
        assert time.monotonic() - begun < 3


async def test_an_issuer_that_is_not_there() -> None:
    issuer = Issuer("http://127.0.0.1:1")
    keys = Keys(f"{issuer.url}/auth/v1")
    assert await _refused(keys, issuer.token()) == 503


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
    with _keys(issuer) as keys:
        await verify(issuer.token(), keys)
        for issuer.key in (private, encrypting):
            assert await _refused(keys, issuer.token()) == 401
        claims = jwt.decode(issuer.token(), options={"verify_signature": False})
        signed = jwt.encode(claims, secret, "HS256", headers={"kid": "secret"})
        assert await _refused(keys, signed) == 401
    assert issuer.asked == 1


async def test_a_key_that_is_too_short_proves_nothing() -> None:
    short = rsa.generate_private_key(65537, 1024)
    jwk = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(short))
    issuer = Issuer("", {**jwk, "kid": "short", "alg": "RS256"})
    with _keys(issuer) as keys, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert await _refused(keys, issuer.token()) == 401


async def test_an_answer_without_a_key_takes_no_key_away(clock: Clock) -> None:
    """A proxy or a restore that answers `{"keys": []}` would be a 401 for everybody."""
    issuer = Issuer()
    with _keys(issuer) as keys:
        token = issuer.token(seconds=7200)
        await verify(token, keys)
        for issuer.keys, clock.passed in (([], 400.0), ([{"kty": "oct"}], 3500.0)):
            await verify(token, keys)
            await _done(keys)
            await verify(token, keys)
        assert issuer.asked == 3
        clock.passed = 3601
        assert await _refused(keys, token) == 503


async def test_a_project_with_the_legacy_secret_is_told_what_to_do(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It signs with HS256, and publishes no key."""
    issuer = Issuer()
    issuer.keys = []
    with _keys(issuer) as keys:
        assert await _refused(keys, issuer.token()) == 503
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
        assert await _refused(Keys(f"{issuer.url}/auth/v1"), issuer.token()) == 503
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
    with _keys(issuer) as keys:
        await verify(issuer.token(), keys)
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name)
        assert await _refused(Keys(keys.issuer), issuer.token()) == 503


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
    issuer.seconds = 1
    with serving(issuer):
        app = create_app(settings.model_copy(update={"supabase_url": issuer.url}))

        @app.get("/test/caller")
        async def read_caller(caller: CallerDep) -> None: ...

        async with running(app) as client:
            headers = {"Authorization": f"Bearer {issuer.token()}"}
            request = asyncio.create_task(client.get("/test/caller", headers=headers))
            while not issuer.asked:
                await asyncio.sleep(0.01)
            request.cancel()
            assert _fetching()
        assert not _fetching()


def _fetching() -> list[str]:
    return [it for it in map(repr, asyncio.all_tasks()) if "Keys._refresh" in it]


async def test_doctor_says_whether_tokens_can_be_verified(settings: Settings) -> None:
    async def examined(url: str) -> tuple[str, str]:
        patient = Patient(settings.model_copy(update={"supabase_url": url}), Options(), stack)
        [found] = [it async for it in check_issuer(patient)]
        return found.level, found.observed

    issuer = Moody()
    async with AsyncExitStack() as stack:
        with serving(issuer) as url:
            assert await examined(url) == ("ok", f"1 of {url}/auth/v1 for ES256")
            issuer.status = 404
            assert "the answer is 404" in (await examined(url))[1]
        assert (await examined(url))[0] == "failure"
