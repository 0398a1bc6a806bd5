"""A bearer token, and whom it is for."""

from uuid import UUID

import jwt

from {{ cookiecutter.package_name }}.auth.keys import Keys
from {{ cookiecutter.package_name }}.database.caller import Caller

# Asymmetric ones only. With HS256 whoever can verify can sign, and a public key would do for a secret.
_ALGORITHMS = ["ES256", "RS256"]

# The roles of PostgreSQL that a token may choose. Never service_role: row-level security does not hold
# for it.
_ROLES = {"authenticated"}

# What policies ask about. Not user_metadata, which users write themselves.
_CLAIMS = ("sub", "role", "aal", "session_id", "is_anonymous", "app_metadata")

# Bytes, before anything is parsed. A choice: several times what Supabase issues.
_LONGEST = 8 * 1024

# Seconds that clocks may differ.
_LEEWAY = 10


class InvalidTokenError(Exception):
    """The token proves nothing. Its text is for whoever sent it."""


async def verify(token: str, keys: Keys) -> Caller:
    """The caller whom the token is for. Raises an `InvalidTokenError`, or an `IssuerDownError`."""
    if len(token) > _LONGEST:
        raise InvalidTokenError("The token is too long.")
    try:
        head = jwt.get_unverified_header(token)
        if head.get("alg") not in _ALGORITHMS or not isinstance(key_id := head.get("kid"), str):
            raise InvalidTokenError("The token is not signed with a key of the issuer.")
        key = await keys.find(key_id)
        if key is None:
            raise InvalidTokenError("The token is not signed with a key of the issuer.")
        claims = jwt.decode(
            token,
            key,
            algorithms=_ALGORITHMS,
            audience="authenticated",
            issuer=keys.issuer,
            leeway=_LEEWAY,
            options={"require": ["exp", "iss", "aud", "sub", "role"]},
        )
        if str(user := UUID(claims["sub"])) != claims["sub"] or claims["role"] not in _ROLES:
            raise InvalidTokenError("The token is not a user's.")
        sent = {it: claims[it] for it in _CLAIMS if it in claims}
        return Caller(user, claims["role"], sent)
    except jwt.ExpiredSignatureError:
        raise InvalidTokenError("The token has expired.") from None
    except (jwt.InvalidTokenError, ValueError, TypeError, OverflowError, RecursionError):
        raise InvalidTokenError("The token is not valid.") from None
