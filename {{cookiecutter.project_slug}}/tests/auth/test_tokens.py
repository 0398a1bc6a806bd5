"""A token that proves nothing is a 401 that says why, and never a 500."""

from collections.abc import Callable
from typing import Any

import jwt
import pytest
from fastapi.exceptions import HTTPException

from {{ cookiecutter.package_name }}.auth.keys import Keys
from {{ cookiecutter.package_name }}.auth.tokens import verify

from devstack.issuer import USERS, Issuer, make_key

# None has anything of the token in it.
INVALID = "The token is not valid."
EXPIRED = "The token has expired."
EARLY = "The token is not valid yet, by the clock of the service."
ISSUER = "The token is another issuer's."
AUDIENCE = "The token is not for this audience."
LONG = "The token is too long."
UNKNOWN = "The token is not signed with a key of the issuer."


@pytest.fixture
def keys(issuer: Issuer) -> Keys:
    return Keys(f"{issuer.url}/auth/v1")


def _by(algorithm: str, secret: Callable[[Issuer], str]) -> Callable[[Issuer], str]:
    """A good token's claims, signed by whoever has what is public, or nothing."""

    def make(issuer: Issuer) -> str:
        claims: dict[str, Any] = jwt.decode(issuer.token(), options={"verify_signature": False})
        return jwt.encode(claims, secret(issuer), algorithm, headers={"kid": issuer.key["kid"]})

    return make


def _anothers_signature(issuer: Issuer) -> str:
    return ".".join([*issuer.token("alice").split(".")[:2], issuer.token("bob").split(".")[2]])


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda issuer: issuer.token(seconds=-11), EXPIRED),
        (lambda issuer: issuer.token(nbf=2**33), EARLY),
        (lambda issuer: issuer.token(exp="soon"), INVALID),
        (lambda issuer: issuer.token(iss="https://other.supabase.co/auth/v1"), ISSUER),
        # Of `dev`, whose key lies in a folder of whoever develops.
        (lambda issuer: Issuer("http://dev.localhost", issuer.key).token(), ISSUER),
        (lambda issuer: issuer.token(aud="anon"), AUDIENCE),
        (lambda issuer: issuer.token(role="anon"), INVALID),
        (lambda issuer: issuer.token(role="service_role"), INVALID),
        (lambda issuer: issuer.token(sub="alice"), INVALID),
        (lambda issuer: issuer.token(sub=USERS["alice"].upper()), INVALID),
        (lambda issuer: Issuer(issuer.url).token(), UNKNOWN),
        (lambda it: Issuer(it.url, {**make_key(), "kid": it.key["kid"]}).token(), INVALID),
        (_by("none", lambda _: ""), INVALID),
        (_by("HS256", lambda issuer: issuer.key["x"]), INVALID),
        (_anothers_signature, INVALID),
        (lambda issuer: issuer.token(app_metadata="a" * 6200), LONG),
        (lambda _: "token", INVALID),
    ],
)
async def test_who_is_refused_learns_why(
    issuer: Issuer, keys: Keys, make: Callable[[Issuer], str], reason: str
) -> None:
    """Or nobody finds out why every token is refused: another project, or a clock that is ahead."""
    with pytest.raises(HTTPException) as refusal:
        await verify(make(issuer), keys)
    assert (refusal.value.status_code, refusal.value.detail) == (401, reason)
    assert refusal.value.headers == {"WWW-Authenticate": 'Bearer error="invalid_token"'}


async def test_clocks_may_differ_by_some_seconds(issuer: Issuer, keys: Keys) -> None:
    assert str((await verify(issuer.token(seconds=-5), keys)).id) == USERS["alice"]


async def test_policies_get_what_users_can_not_change(issuer: Issuer, keys: Keys) -> None:
    """And an anonymous sign-in, which has the role of all others, is told apart."""
    token = issuer.token(
        is_anonymous=True, aal="aal2", app_metadata={"tenant": 1}, amr=[{"method": "totp"}]
    )
    claims = dict((await verify(token, keys)).claims)
    assert claims.pop("session_id")
    assert claims == {
        "sub": USERS["alice"],
        "role": "authenticated",
        "aal": "aal2",
        "is_anonymous": True,
        "app_metadata": {"tenant": 1},
    }
