"""Add the secrets that compose.yaml needs, and that are not there yet, to .env.

    python3 compose/generate_secrets.py

Needs nothing but Python. What is in .env stays as it is.
"""

import os
import re
import secrets
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]

# They become 32 characters, none of which has another meaning in a URL: compose.yaml puts passwords
# into some.
BYTES = 24
SAFE = re.compile(r"[A-Za-z0-9_.~-]+")

# Followed by ":?run" in compose.yaml: what has to be set, and may be anything.
REQUIRED = re.compile(r"\$\{(\w+):\?run\b")
ASSIGNMENT = re.compile(r"\s*(?:export\s+)?(\w+)\s*=(.*)")


def main() -> None:
    compose, env = PROJECT / "compose.yaml", (PROJECT / ".env").resolve()
    try:
        names = sorted(set(REQUIRED.findall(compose.read_text(encoding="utf-8"))))
        before = env.read_bytes() if env.exists() else b""
        values = assignments(before.decode())
        missing = [name for name in names if not values.get(name)]
        refuse([name for name in names if values.get(name) and not SAFE.fullmatch(values[name])])
        if before and not before.endswith(b"\n"):
            before += b"\n"
        lines = "".join(f"{name}={secrets.token_urlsafe(BYTES)}\n" for name in missing)
        write(env, before + lines.encode())
    except UnicodeDecodeError:
        sys.exit(f"{env} can't be read: save it as UTF-8.")
    except OSError as error:
        sys.exit(f"{error.filename} can't be used: {error.strerror}.")
    print(f"{env}: added {', '.join(missing)}." if missing else f"{env} has every secret already.")


def assignments(text: str) -> dict[str, str]:
    """The variables of a .env file, without quotes and comments. As for compose, the last one wins."""
    found = filter(None, map(ASSIGNMENT.match, text.splitlines()))
    return {match[1]: match[2].split(" #")[0].strip().strip("'\"") for match in found}


def refuse(names: list[str]) -> None:
    if names:
        sys.exit(
            f"{', '.join(names)} in .env can't be put into a URL as it is. Use letters, digits, -, _, "
            ". and ~ only, or remove the line and run this again."
        )


def write(path: Path, content: bytes) -> None:
    """Replace the file at once: nobody else can read it, and it is never half written."""
    new = path.with_name(".env.new")
    new.unlink(missing_ok=True)
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)


if __name__ == "__main__":
    main()
