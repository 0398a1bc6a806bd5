"""A bearer token, and whom it is for."""

from uuid import UUID

import jwt
from fastapi.exceptions import HTTPException

from {{ cookiecutter.package_name }}.auth.keys import ALGORITHMS, Keys
from {{ cookiecutter.package_name }}.database.caller import Caller

# The roles of PostgreSQL that a token may choose. Never service_role, for which no policy holds.
_ROLES = ("authenticated",)

# What policies ask about. Not user_metadata, which users write themselves.
_CLAIMS = ("sub", "role", "aal", "session_id", "is_anonymous", "app_metadata")

# Bytes, before anything is parsed. A choice: several times what Supabase issues.
_LONGEST = 8 * 1024

# Seconds that clocks may differ.
_LEEWAY = 10

# Why a token is refused, where it is good but not here or now. Nothing in it comes from the token.
_REASONS: dict[type[Exception], str] = {
    jwt.ExpiredSignatureError: "has expired",
    jwt.ImmatureSignatureError: "is not valid yet, by the clock of the service",
    jwt.InvalidIssuerError: "is another issuer's",
    jwt.InvalidAudienceError: "is not for this audience",
}


async def verify(token: str, keys: Keys) -> Caller:
    """The caller whom the token is for. 401: it proves nothing."""
    if len(token) > _LONGEST:
        raise _refusal("is too long")
    reason = "is not valid"
    try:
        head = jwt.get_unverified_header(token.partition(".")[0] + "..")
        if (key := await keys.find(head["kid"])) is None:
            raise _refusal("is not signed with a key of the issuer")
        claims: dict[str, object] = jwt.decode(
            token,
            key,
            algorithms=ALGORITHMS,
            audience="authenticated",
            issuer=keys.issuer,
            leeway=_LEEWAY,
            options={"enforce_minimum_key_length": True},
        )
        match claims:
            case {"sub": str(sub), "role": str(role), "exp": int()} if (
                str(user := UUID(sub)) == sub and role in _ROLES
            ):
                return Caller(user, role, {it: claims[it] for it in _CLAIMS if it in claims})
    except (jwt.PyJWTError, KeyError, ValueError, RecursionError) as error:
        reason = _REASONS.get(type(error), reason)
    raise _refusal(reason)


def _refusal(reason: str) -> HTTPException:
    challenge = {"WWW-Authenticate": 'Bearer error="invalid_token"'}
    return HTTPException(401, f"The token {reason}.", challenge)
