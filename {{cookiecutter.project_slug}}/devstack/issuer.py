"""What Supabase Auth is to the service, without a Supabase project: keys, and tokens of made-up users.

`uv run poe token` prints a token for the service that `uv run poe dev` runs.
"""

import argparse
import json
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import NamedTemporaryFile
from uuid import uuid4

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from devstack.process import DevstackError

USERS = {
    "alice": "a11ce000-0000-4000-8000-000000000001",
    "bob": "b0b00000-0000-4000-8000-000000000002",
}

# Of `dev`. The keys are on a port that may change, and tokens hold for the next `dev` too. Nobody can have
# this name on the internet.
URL = "http://dev.localhost"

# Seconds: a working day.
DAY = 12 * 3600

Key = Mapping[str, str]
"""A private key as JWK."""


def make_key(algorithm: str = "ES256") -> Key:
    made: str
    if algorithm == "RS256":
        made = jwt.algorithms.RSAAlgorithm.to_jwk(rsa.generate_private_key(65537, 2048))
    else:
        made = jwt.algorithms.ECAlgorithm.to_jwk(ec.generate_private_key(ec.SECP256R1()))
    return {**json.loads(made), "kid": str(uuid4()), "alg": algorithm}


def public(key: Key) -> dict[str, str]:
    names = ("kty", "crv", "x", "y", "n", "e", "kid", "alg")
    return {**{name: key[name] for name in names if name in key}, "use": "sig"}


class Issuer:
    """Signs with `key`, and publishes `keys`."""

    def __init__(self, url: str = "", key: Key | None = None) -> None:
        self.url = url
        self.key = key or make_key()
        self.keys: list[dict[str, str]] = [public(self.key)]
        self.asked = 0
        """How often it was asked for them."""

    def token(self, user: str = "alice", seconds: int = 3600, **claims: object) -> str:
        """A token as Supabase Auth's: of a user by name or id, with other `claims` if need be."""
        now = int(time.time())
        payload = {
            "iss": f"{self.url}/auth/v1",
            "aud": "authenticated",
            "sub": USERS.get(user, user),
            "role": "authenticated",
            "iat": now,
            "exp": now + seconds,
            "email": f"{user}@example.com",
            "aal": "aal1",
            "session_id": str(uuid4()),
            "is_anonymous": False,
            "app_metadata": {"provider": "email", "providers": ["email"]},
            "user_metadata": {"name": user},
            **claims,
        }
        key = jwt.PyJWK(dict(self.key))
        return jwt.encode(payload, key, headers={"kid": self.key["kid"]})

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        """Answer whoever asks for the keys."""
        body = json.dumps({"keys": self.keys}).encode()
        handler.send_response(200)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)


@contextmanager
def serving(issuer: Issuer) -> Iterator[str]:
    """Serve an issuer's keys on loopback; the URL of that, which is also the issuer's if it has none."""
    with serve(issuer) as server:
        url = f"http://127.0.0.1:{server.server_port}"
        issuer.url = issuer.url or url
        try:
            yield url
        finally:
            server.shutdown()


def serve(issuer: Issuer) -> ThreadingHTTPServer:
    """Serve an issuer's keys on loopback until this process ends, at the latest."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            issuer.asked += 1
            with suppress(ConnectionError):
                issuer.answer(self)

        def log_message(self, *_: object) -> None:
            """Nothing: it is asked once in a while."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    return server


def start_issuer(data: Path) -> None:
    """The issuer of `dev`, in the environment of what this process starts."""
    port = serve(kept_issuer(data)).server_port
    os.environ["SUPABASE_URL"] = URL
    os.environ["SUPABASE_JWKS_URL"] = f"http://127.0.0.1:{port}/auth/v1/.well-known/jwks.json"
    for name in ("NO_PROXY", "no_proxy"):  # a company's proxy can't reach this machine
        os.environ[name] = f"127.0.0.1,{os.environ.get(name, '')}"


def kept_issuer(data: Path) -> Issuer:
    """The issuer whose key is in this folder, from now on if there was none."""
    path = data / "issuer.json"
    try:
        if not path.exists():
            data.mkdir(exist_ok=True)
            # Complete or not at all, and readable by this user alone; the first of two has made it.
            with NamedTemporaryFile("w", dir=data) as new, suppress(FileExistsError):
                json.dump(make_key(), new)
                new.flush()
                os.link(new.name, path)
        key = json.loads(path.read_text())
        jwt.PyJWK(key)
        return Issuer(URL, key)
    except (OSError, ValueError, TypeError, AttributeError, jwt.PyJWTError) as error:
        reason = getattr(error, "strerror", None) or "it is no key"
        raise DevstackError(f"{path}: {reason}. Make it yours, or delete it.") from None


def main() -> None:
    parser = argparse.ArgumentParser(prog="uv run poe token", description="A token for /docs.")
    parser.add_argument("user", nargs="?", default="alice", help=" or ".join(USERS))
    user = parser.parse_args().user
    if user not in USERS:
        raise SystemExit(f"There is no user {user!r}: write {' or '.join(USERS)}.")
    try:
        print(kept_issuer(Path(__file__).parents[1] / ".devstack").token(user, DAY))
    except DevstackError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
