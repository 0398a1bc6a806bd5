"""PostgreSQL, PgBouncer, migrations, and the service with reload: `uv run poe dev`."""

import argparse
import multiprocessing
import os
import socket
import threading
import time
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from {{ cookiecutter.package_name }}.cli import migrate
from {{ cookiecutter.package_name }}.main import create_app

import devstack
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
    end_with(PARENT)
    try:
        check_port(options.host, options.port)  # before the databases are started
        with devstack.postgres(DATA) as url, devstack.pgbouncer(url) as pooler_url:
            run(options.host, options.port, url, pooler_url)
    except (devstack.DevstackError, OSError) as error:
        raise SystemExit(str(error)) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def check_port(host: str, port: int) -> None:
    """End here if the service can't listen there."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        socket.create_server((host, port), family=family).close()
    except (OSError, OverflowError) as error:
        with locked(DATA):  # or else another `dev` in this folder, which may have the port, is told
            reason = getattr(error, "strerror", error)
            raise SystemExit(f"Can't listen on {host}:{port}: {reason}. Try --port.") from None


def run(host: str, port: int, url: str, pooler_url: str) -> None:
    """Migrate and serve."""
    direct = os.environ["DATABASE_MIGRATION_URL"] = f"{url}?sslmode=disable"
    os.environ["DATABASE_URL"] = f"{pooler_url}?sslmode=disable"
    os.environ.setdefault("LOG_FORMAT", "console")
    migrate()
    print(f"PostgreSQL: {url}\nPgBouncer:  {pooler_url}")
    print("For `migrate` and `alembic` in another terminal, until this ends:")
    # Both variables: with one alone the other would still be .env's, production's perhaps.
    for variable in ("DATABASE_URL", "DATABASE_MIGRATION_URL"):
        print(f"  export {variable}='{direct}'", flush=True)
    uvicorn.run(
        "devstack.dev:reloaded_app",
        factory=True,
        host=host,
        port=port,
        reload=True,
        reload_dirs=[str(ROOT / "src")],
        log_config=None,
    )


def reloaded_app() -> FastAPI:
    """The application, in the process that uvicorn's reloader starts."""
    reloader = multiprocessing.parent_process()
    assert reloader and reloader.pid
    end_with(reloader.pid)
    return create_app()


def end_with(parent: int) -> None:
    """When `uv run`, or the reloader, is killed: it would leave this behind, with the port."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.2)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    main()
