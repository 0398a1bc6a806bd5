"""A token that proves nothing is a 401, whatever is wrong with it, and never a 500: all that we know."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any
from uuid import UUID

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from fastapi.exceptions import HTTPException

from orders_api.auth.keys import Keys
from orders_api.auth.tokens import verify

from devstack.issuer import USERS, Issuer, make_key, public, serving

RSA = make_key("RS256")
CURVE = {**make_key(), "kid": "other"}


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    """One with a key for each algorithm that is good, and with some that are not."""
    issuer = Issuer()
    issuer.keys.append(public(RSA))
    with serving(issuer):
        yield issuer


@pytest.fixture(scope="module")
def keys(issuer: Issuer) -> Keys:
    return Keys(f"{issuer.url}/auth/v1")


def _encoded(value: object) -> str:
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(text).rstrip(b"=").decode()


def _claims(issuer: Issuer) -> dict[str, Any]:
    claims: dict[str, Any] = jwt.decode(issuer.token(), options={"verify_signature": False})
    return claims


def _signed(issuer: Issuer, head: Mapping[str, object], claims: object) -> str:
    """Signed with the issuer's key, however little sense it makes. `...` leaves a name out."""
    key = jwt.PyJWK(dict(issuer.key)).key
    full = {"alg": "ES256", "typ": "JWT", "kid": issuer.key["kid"], **head}
    signed = f"{_encoded({k: v for k, v in full.items() if v is not ...})}.{_encoded(claims)}"
    r, s = decode_dss_signature(key.sign(signed.encode(), ec.ECDSA(SHA256())))
    return f"{signed}.{_encoded(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


def _with_head(**head: object) -> Callable[[Issuer], str]:
    return lambda issuer: _signed(issuer, head, _claims(issuer))


def _with_claims(**claims: object) -> Callable[[Issuer], str]:
    """`...` leaves a claim out, OURS in it is the right issuer; a function is asked what it is now."""

    def make(issuer: Issuer) -> str:
        now = int(time.time())
        changed = {
            name: it(now) if callable(it) else it
            for name, it in {**_claims(issuer), **claims}.items()
            if it is not ...
        }
        text = json.dumps(changed).replace("OURS", f"{issuer.url}/auth/v1")
        return _signed(issuer, {}, text.encode())

    return make


def _later(seconds: float) -> Callable[[int], float]:
    return lambda now: now + seconds


def _with_text(claim: str, text: str) -> Callable[[Issuer], str]:
    """A claim as `json.dumps` does not write it; one that is there already counts no more."""
    return lambda issuer: _signed(
        issuer, {}, f'{json.dumps(_claims(issuer))[:-1]}, "{claim}": {text}'.encode() + b"}"
    )


def _secret(form: str, **head: object) -> Callable[[Issuer], str]:
    """HS256, with the public key for the secret."""

    def make(issuer: Issuer) -> str:
        jwk = public(issuer.key)
        key = jwt.PyJWK(jwk).key
        secret = {
            "pem": key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
            "der": key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
            "point": key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint),
            "jwk": json.dumps(jwk).encode(),
            "x": base64.urlsafe_b64decode(jwk["x"] + "="),
            "empty": b"",
        }[form]
        head_ = {"alg": "HS256", "kid": jwk["kid"], **head}
        signed = f"{_encoded(head_)}.{_encoded(_claims(issuer))}"
        return f"{signed}.{_encoded(hmac.digest(secret, signed.encode(), hashlib.sha256))}"

    return make


def _by(algorithm: str, key: Any, **head: object) -> Callable[[Issuer], str]:
    return lambda issuer: jwt.encode(
        _claims(issuer), key, algorithm, headers={"kid": issuer.key["kid"], **head}
    )


def _pss(issuer: Issuer) -> str:
    """RS256 says the head."""
    head = _encoded({"alg": "RS256", "kid": RSA["kid"]})
    signed = f"{head}.{_encoded(_claims(issuer))}"
    scheme = padding.PSS(padding.MGF1(SHA256()), 32)
    return f"{signed}.{_encoded(jwt.PyJWK(dict(RSA)).key.sign(signed.encode(), scheme, SHA256()))}"


def _changed(change: Callable[[list[str]], list[str]]) -> Callable[[Issuer], str]:
    return lambda issuer: ".".join(change(issuer.token().split(".")))


def _der(issuer: Issuer) -> str:
    head, claims, _ = issuer.token().split(".")
    key = jwt.PyJWK(dict(issuer.key)).key
    return f"{head}.{claims}.{_encoded(key.sign(f'{head}.{claims}'.encode(), ec.ECDSA(SHA256())))}"


ALICE = USERS["alice"]
HEADS: dict[str, list[object]] = {
    "alg": [..., None, "none", "None", "NONE", "nOnE", "", "ES384", "HS256", 1, ["ES256"]],
    "kid": [..., None, 1, ["a"], {}, "", "a" * 4000, "../../dev/null", "a\x00b", "' OR 1=1 --"],
    "crit": [None, [], ["exp"], ["b64"], "b64"],
    "b64": [False],
}
CLAIMS: dict[str, list[object]] = {
    "iss": [..., None, "", "OURS/", "OURS.evil", "http://dev.localhost/auth/v1", ["OURS"], 1],
    "aud": [..., None, "", "anon", "Authenticated", [], ["anon"], ["authenticated", 1], {}, 1],
    "exp": [
        ...,
        None,
        "soon",
        lambda now: str(now + 60),
        _later(-60),
        _later(60.5),
        True,
        -1,
        0,
        [],
    ],
    "nbf": [_later(600), "soon", []],
    "iat": [_later(600), "soon", []],
    "sub": [..., None, 1, "", "alice", ALICE.upper(), f"urn:uuid:{ALICE}", ALICE + "\n", [ALICE]],
    "role": [..., None, "", "anon", "service_role", "postgres", "supabase_admin", "none", 1, {}],
}
CLAIMS["sub"] += [ALICE.replace("-", ""), f" {ALICE}", "{" + ALICE + "}", ALICE[:-1] + "\uff11"]
CLAIMS["role"] += ["authenticated ", "Authenticated", "\u0430uthenticated", ["authenticated"]]
CLAIMS["role"] += ["authenticated\x00", "authenticated', true); --"]
TEXTS = {
    "exp": ["Infinity", "-Infinity", "NaN", "1e400", "9" * 5000],
    "app_metadata": ["NaN", "[-Infinity]", r'"\u0000"', r'"\ud800"', r'"\\\u0000"'],
}
NO_CLAIMS = [b"[]", b"null", b"1", b'"a"', b"", b"{", b"\xff", b"[" * 5000, b"9" * 5000]
NO_HEADS = [*NO_CLAIMS, b'{"a":' * 999, b'{"kid":' + b"9" * 5000]
ELSEWHERE = {"jku": "http://127.0.0.1:1", "x5u": "http://127.0.0.1:1", "x5c": ["AAAA"]}
ITS_OWN: dict[str, object] = {"jwk": public(CURVE), **ELSEWHERE}

# None has anything of the token in it.
INVALID = "The token is not valid."
EXPIRED = "The token has expired."
EARLY = "The token is not valid yet, by the clock of the service."
ISSUER = "The token is another issuer's."
AUDIENCE = "The token is not for this audience."
LONG = "The token is too long."
UNKNOWN = "The token is not signed with a key of the issuer."
REASONS = {INVALID, EXPIRED, EARLY, ISSUER, AUDIENCE, LONG, UNKNOWN}

HOSTILE: list[Callable[[Issuer], str]] = [
    *(_secret(it) for it in ("pem", "der", "point", "jwk", "x", "empty")),
    _secret("pem", alg="HS512"),
    *(_with_head(**{name: it}) for name, values in HEADS.items() for it in values),
    _with_head(b64=False, crit=["b64"]),
    lambda issuer: _with_head(alg="none")(issuer).rpartition(".")[0] + ".",
    *(_with_claims(**{name: it}) for name, values in CLAIMS.items() for it in values),
    *(_with_text(name, it) for name, values in TEXTS.items() for it in values),
    *(_changed(lambda it, head=head: [_encoded(head), *it[1:]]) for head in NO_HEADS),  # type: ignore[misc]
    *(lambda issuer, it=it: _signed(issuer, {}, it) for it in NO_CLAIMS),
    # Another key, or another algorithm than the key's.
    _by("ES256", jwt.PyJWK(dict(CURVE)).key),
    _by("ES256", jwt.PyJWK(dict(CURVE)).key, **ITS_OWN),
    _by("ES256", jwt.PyJWK(dict(CURVE)).key, **ITS_OWN, kid=CURVE["kid"]),
    _by("ES256", jwt.PyJWK(dict(CURVE)).key, kid=RSA["kid"]),
    _by("ES384", ec.generate_private_key(ec.SECP384R1())),
    _by("ES256K", ec.generate_private_key(ec.SECP256K1())),
    _by("EdDSA", ed25519.Ed25519PrivateKey.generate()),
    _by("RS256", jwt.PyJWK(dict(RSA)).key),
    _by("RS256", rsa.generate_private_key(65537, 2048), kid=RSA["kid"]),
    _by("PS256", jwt.PyJWK(dict(RSA)).key, kid=RSA["kid"]),
    _by("RS512", jwt.PyJWK(dict(RSA)).key, kid=RSA["kid"]),
    _pss,
    # Another signature, or none.
    _changed(lambda it: [it[0], _encoded({"sub": USERS["bob"]}), it[2]]),
    lambda issuer: ".".join([*issuer.token().split(".")[:2], issuer.token("bob").split(".")[2]]),
    _changed(lambda it: [*it[:2], _encoded(bytes(64))]),
    _changed(lambda it: [*it[:2], ""]),
    _changed(lambda it: [*it[:2], it[2][:43]]),
    _changed(lambda it: [*it[:2], it[2] + "AAAA"]),
    _der,
    # Another form.
    _changed(lambda it: it[:1]),
    _changed(lambda it: it[:2]),
    _changed(lambda it: [*it, "AAAA"]),
    _changed(lambda it: [_encoded({"alg": "RSA-OAEP", "enc": "A256GCM"}), *it, "A"]),
    *(lambda issuer, it=it: it for it in ("", ".", "..", "...", "token", "null", "a" * 60_000)),
    lambda issuer: issuer.token().replace(".", ". "),
    lambda issuer: "!" + issuer.token(),
    lambda issuer: issuer.token() + "\xe4",
    lambda issuer: issuer.token(app_metadata="a" * 6000),
]


@pytest.mark.parametrize("number", range(len(HOSTILE)))
async def test_a_hostile_token_is_refused(issuer: Issuer, keys: Keys, number: int) -> None:
    with pytest.raises(HTTPException) as refusal:
        await verify(HOSTILE[number](issuer), keys)
    assert refusal.value.status_code == 401
    assert refusal.value.headers == {"WWW-Authenticate": 'Bearer error="invalid_token"'}
    assert refusal.value.detail in REASONS
    assert refusal.value.__cause__ is None


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (_with_claims(exp=0), EXPIRED),
        (_with_claims(iat=_later(60)), EARLY),
        (_with_claims(nbf=_later(60)), EARLY),
        (_with_claims(iss="OURS/"), ISSUER),
        (_with_claims(aud=["anon", "other"]), AUDIENCE),
        (lambda _: "a" * 8193, LONG),
        (lambda issuer: Issuer("https://other.supabase.co").token(), UNKNOWN),
        (_with_claims(aud=...), INVALID),
        (_with_head(alg="HS256"), INVALID),
        (_by("ES256", jwt.PyJWK(dict(CURVE)).key), INVALID),
        # Claims count for nothing before the signature does.
        (
            lambda issuer: Issuer(issuer.url, {**CURVE, "kid": issuer.key["kid"]}).token(exp=0),
            INVALID,
        ),
    ],
)
async def test_the_reason_is_the_right_one(
    issuer: Issuer, keys: Keys, make: Callable[[Issuer], str], reason: str
) -> None:
    with pytest.raises(HTTPException) as refusal:
        await verify(make(issuer), keys)
    assert refusal.value.detail == reason


async def test_a_token_of_more_than_8_kb_is_not_parsed(issuer: Issuer, keys: Keys) -> None:
    room = 8192 - len(issuer.token(app_metadata=""))
    sizes = {}
    for size in range(room * 3 // 4 - 3, room * 3 // 4 + 4):
        token = issuer.token(app_metadata="a" * size)
        sizes[len(token)] = token
    for length, token in sizes.items():
        if length <= 8192:
            await verify(token, keys)
        else:
            with pytest.raises(HTTPException, match=LONG):
                await verify(token, keys)
    assert min(sizes) <= 8192 < max(sizes)


@pytest.mark.parametrize(
    "make",
    [
        Issuer.token,
        _by("RS256", jwt.PyJWK(dict(RSA)).key, kid=RSA["kid"]),
        _with_claims(aud=["other", "authenticated"]),
        _with_claims(nbf=_later(-1), iat=...),
        lambda issuer: issuer.token(seconds=-5),
        _with_claims(iat=_later(5)),
        _with_claims(exp=10**30),
        _with_text("exp", "9" * 3000),
        _with_head(crit=["b64"], b64=True),
        lambda issuer: issuer.token("anybody", sub=str(UUID(int=1))),
        lambda issuer: issuer.token(app_metadata={"a": "\\u0000 \\ ' \u2028 \N{PILE OF POO}"}),
        lambda issuer: issuer.token(app_metadata={"a": "a" * 4000}),
    ],
)
async def test_a_good_token_passes(
    issuer: Issuer, keys: Keys, make: Callable[[Issuer], str]
) -> None:
    """Also with clocks that differ by some seconds."""
    caller = await verify(make(issuer), keys)
    assert caller.role == "authenticated"
    assert str(caller.id) == caller.claims["sub"]


async def test_how_deep_a_claim_may_be_is_pythons_to_say(issuer: Issuer, keys: Keys) -> None:
    """From 3.12 on, deeper than 8 KB can be. It is no 500 before, either."""
    deep = _with_text("app_metadata", "[" * 2900 + "]" * 2900)
    with suppress(HTTPException):
        await verify(deep(issuer), keys)


async def test_who_is_verified_is_whom_postgresql_is_told(issuer: Issuer, keys: Keys) -> None:
    """A claim that is there twice: readers differ in which one counts."""
    twice = _with_text("sub", json.dumps(USERS["bob"]))
    caller = await verify(twice(issuer), keys)
    assert str(caller.id) == caller.claims["sub"] == USERS["bob"]
    assert USERS["alice"] not in caller.sql
