"""PostgreSQL, PgBouncer, migrations, and the service with reload: `uv run poe dev`."""

import argparse
import os
import socket
import threading
import time
from pathlib import Path

import uvicorn

from {{ cookiecutter.package_name }}.cli import APP, migrate

import devstack
{%- if cookiecutter.auth == "supabase" %}
from devstack.issuer import start_issuer
{%- endif %}
from devstack.postgres import locked
from devstack.process import PARENT

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / ".devstack"


def main() -> None:
    """Run it until Ctrl-C."""
    parser = argparse.ArgumentParser(prog="uv run poe dev", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=8000, help="port to listen on")
    options = parser.parse_args()
    threading.Thread(target=end_with_parent, daemon=True).start()
    try:
        port = find_port(options.host, options.port)  # before the databases are started
        with devstack.postgres(DATA) as url:
            login = devstack.make_login(url)
            with devstack.pgbouncer(login) as pooler_url:
                run(options.host, port, url, login, pooler_url)
    except (devstack.DevstackError, OSError) as error:
        raise SystemExit(str(error)) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def find_port(host: str, port: int) -> int:
    """The port, or one that is free for 0. End here if the service can't listen there."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.create_server((host, port), family=family) as probe:
            return int(probe.getsockname()[1])
    except (OSError, OverflowError) as error:
        with locked(DATA):  # or else another `dev` in this folder, which may have the port, is told
            reason = getattr(error, "strerror", error)
            raise SystemExit(f"Can't listen on {host}:{port}: {reason}. Try --port.") from None


def run(host: str, port: int, url: str, login: str, pooler_url: str) -> None:
    """Migrate and serve."""
    os.environ["DATABASE_MIGRATION_URL"] = f"{url}?sslmode=disable"
    os.environ["DATABASE_URL"] = f"{pooler_url}?sslmode=disable"
    os.environ.setdefault("LOG_FORMAT", "console")
{%- if cookiecutter.auth == "supabase" %}
    start_issuer(DATA)
{%- endif %}
    migrate()
    print(f"PostgreSQL: {url}\nPgBouncer:  {pooler_url}")
    print("For `migrate` and `alembic` in another terminal, while this runs:")
    # Both variables: with one alone the other would still be .env's, production's perhaps.
    print(f"  export DATABASE_URL='{login}?sslmode=disable'")
    print(f"  export DATABASE_MIGRATION_URL='{url}?sslmode=disable'")
{%- if cookiecutter.auth == "supabase" %}
    for variable in ("SUPABASE_URL", "SUPABASE_JWKS_URL"):
        print(f"  export {variable}='{os.environ[variable]}'")
    print("A token:    uv run poe token [alice|bob], for Authorize in /docs")
{%- endif %}
    shown = f"[{host}]" if ":" in host else host
    print(f"The API:    http://{shown}:{port}/docs", flush=True)
    uvicorn.run(
        APP,
        factory=True,
        host=host,
        port=port,
        reload=True,
        reload_dirs=[str(ROOT / "src")],
        log_config=None,
        timeout_graceful_shutdown=1,  # a stream that somebody watches keeps no reload waiting
    )


def end_with_parent() -> None:
    """When `uv run` is killed: it would leave this behind, with the port."""
    while os.getppid() == PARENT:
        time.sleep(0.2)
    os._exit(1)


if __name__ == "__main__":
    main()
