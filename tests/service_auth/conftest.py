"""The fixtures of the service's own tests of `auth`."""

from tests.auth.conftest import app, bearer, clock, issuer, owned, role, settings

__all__ = ["app", "bearer", "clock", "issuer", "owned", "role", "settings"]
