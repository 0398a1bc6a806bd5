"""What Supabase Auth is to the service, without a Supabase project: keys, and tokens of made-up users."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from uuid import uuid4

import jwt
from cryptography.hazmat.primitives.asymmetric import ec

USERS = {
    "alice": "a11ce000-0000-4000-8000-000000000001",
    "bob": "b0b00000-0000-4000-8000-000000000002",
}


class Issuer:
    """An issuer with one key. `keys` is what it publishes."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.key_id = str(uuid4())
        self.key = ec.generate_private_key(ec.SECP256R1())
        public = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(self.key.public_key()))
        self.keys = [{**public, "kid": self.key_id, "alg": "ES256", "use": "sig"}]

    def token(self, user: str = "alice", **claims: object) -> str:
        """A token as Supabase Auth's: of a user by name or id, with other `claims` if need be."""
        now = int(time.time())
        return jwt.encode(
            {
                "iss": f"{self.url}/auth/v1",
                "aud": "authenticated",
                "sub": USERS.get(user, user),
                "role": "authenticated",
                "iat": now,
                "exp": now + 3600,
                "aal": "aal1",
                "session_id": str(uuid4()),
                "app_metadata": {"provider": "email", "providers": ["email"]},
                "user_metadata": {"name": user},
                **claims,
            },
            self.key,
            algorithm="ES256",
            headers={"kid": self.key_id},
        )


@contextmanager
def issuer(port: int = 0) -> Iterator[Issuer]:
    """Serve an issuer's keys on loopback."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps({"keys": made.keys}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nothing: it is asked once in a while."""

    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        made = Issuer(f"http://127.0.0.1:{server.server_port}")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield made
        finally:
            server.shutdown()
