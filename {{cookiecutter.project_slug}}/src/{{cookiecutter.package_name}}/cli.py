"""Commands.

Each imports what it needs by itself: nobody waits for FastAPI to read a `--help`.
"""

import asyncio
import os
import shlex
import signal
import sys
import time
from argparse import Namespace
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

APP = "{{ cookiecutter.package_name }}.main:create_app"

# Seconds that requests in flight get to finish after SIGTERM: less than whoever sent it waits before
# it kills. compose.yaml and kubernetes/ do.
GRACE_PERIOD = 20

# Seconds that a connection may be idle: more than a reverse proxy keeps one (nginx and AWS: 60), and than
# who was refused is told to wait. The next request on a connection that is just being closed fails.
KEEP_ALIVE = 75

main = typer.Typer(
    name="{{ cookiecutter.project_slug }}",
    help="{{ cookiecutter.description | trim }}",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # a description may have brackets
    # A traceback with local variables would show the password.
    pretty_exceptions_enable=False,
)


@main.command()
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.", min=0, max=65535)] = 8000,
    workers: Annotated[int, typer.Option(help="Processes, each with a pool.", min=1)] = 1,
) -> None:
    """Run the service."""
    import uvicorn
{% if cookiecutter.auth == "supabase" %}
    from {{ cookiecutter.package_name }}.database.caller import warn_of_login
{%- endif %}
    from {{ cookiecutter.package_name }}.database.login import refuse_wrong_login
    from {{ cookiecutter.package_name }}.logs import configure_logging
    from {{ cookiecutter.package_name }}.settings import load_settings
    from {{ cookiecutter.package_name }}.web.limits import HeadLimit

    settings = load_settings()
    configure_logging(settings)
    # uvicorn shuts down on SIGTERM and then raises it once more, for whoever handled it before. Ending
    # as it was told to is a success. Without a handler, the first process of a container ignores it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    asyncio.run(refuse_wrong_login(settings))
{%- if cookiecutter.auth == "supabase" %}
    asyncio.run(warn_of_login(settings))
{%- endif %}
    with TemporaryDirectory() if workers > 1 else nullcontext() as metrics:
        if metrics:  # where /metrics adds up what every worker has written
            os.environ["PROMETHEUS_MULTIPROC_DIR"] = metrics
        uvicorn.run(
            APP,
            factory=True,
            host=host,
            port=port,
            workers=workers,
            http=HeadLimit,
            timeout_graceful_shutdown=GRACE_PERIOD,
            timeout_keep_alive=KEEP_ALIVE,
            log_config=None,
            access_log=False,  # web/requests.py has it
            server_header=False,
        )


@main.command()
def migrate(
    x: Annotated[
        list[str] | None, typer.Option("-x", help="For migrations/env.py: schema=NAME.")
    ] = None,
) -> None:
    """Bring the database's schema to the newest revision."""
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    from {{ cookiecutter.package_name }}.database.login import refuse_wrong_login
    from {{ cookiecutter.package_name }}.logs import configure_logging
    from {{ cookiecutter.package_name }}.settings import load_settings

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    folder = project()
    if folder is None:
        raise SystemExit("There is no migrations/env.py here: run this in the project's folder.")
    settings = load_settings()
    configure_logging(settings)
    # DATABASE_URL's too, which only `serve` uses: what is deployed after a migration would fail there,
    # in many replicas.
    asyncio.run(refuse_wrong_login(settings))
    if settings.database_migration_url is not None:
        asyncio.run(refuse_wrong_login(settings, migrations=True))
    target = settings.database_migration_url or settings.database_url
    print(f"Migrating {target.url.database} on {target.url.host}:{target.url.port}.", flush=True)
    if target.ignored:
        print(f"Without effect in its URL: {', '.join(target.ignored)}.", flush=True)
    config = Config(toml_file=folder / "pyproject.toml", cmd_opts=Namespace(x=x or []))
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        raise SystemExit(f"The migration failed: {error}") from None


@main.command()
def tune(
    sql: Annotated[
        str | None, typer.Option(help="A statement that reads. By default, one row of a table.")
    ] = None,
    hold: Annotated[
        str | None, typer.Option(help="Instead of it, a transaction held for so long: 50ms.")
    ] = None,
    concurrency: Annotated[int, typer.Option(help="Requests at once.", min=1)] = 50,
    target_p99: Annotated[str, typer.Option(help="What 99 % may take, with the wait.")] = "100ms",
    max_pool: Annotated[int | None, typer.Option(help="Try no larger pool.", min=1)] = None,
    seconds: Annotated[float, typer.Option(help="Of each of many trials.", min=0.05)] = 1,
    page: Annotated[Path, typer.Option(help="The page with the chart.")] = Path("tune.html"),
    no_page: Annotated[bool, typer.Option("--no-page", help="Figures alone.")] = False,
) -> None:
    """Try sizes of the pool under load, and say which to set."""
    import {{ cookiecutter.package_name }}.main  # noqa: F401  imports every feature, and so every model
    from {{ cookiecutter.package_name }}.observe import tune

    written = None if no_page else page
    command = shlex.join([str(main.info.name), *sys.argv[1:]])
    sys.exit(tune.run(sql, hold, concurrency, target_p99, max_pool, seconds, written, command))


@main.command()
def doctor(
    replicas: Annotated[int | None, typer.Option(help="Replicas at most.", min=1)] = None,
    workers: Annotated[int | None, typer.Option(help="Processes of each.", min=1)] = None,
    surge: Annotated[int | None, typer.Option(help="More of them in a rollout.", min=0)] = None,
    client_limit: Annotated[
        int | None,
        typer.Option(help="Clients the pooler takes.", min=1, envvar="POOLER_CLIENT_LIMIT"),
    ] = None,
    plan: Annotated[
        str | None, typer.Option(help="Or Supabase's compute size: nano, micro, small ... 16xl.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Say what the service is connected to, and whether its settings are safe there.

    Without numbers it takes those of kubernetes/. It only reads. Ends with 0 if all is well, with 1
    after a warning and with 2 after a failure.
    """
    started = time.monotonic()
    import {{ cookiecutter.package_name }}.main  # noqa: F401  imports every feature, and so every model
    from {{ cookiecutter.package_name }}.observe.doctor import run
    from {{ cookiecutter.package_name }}.observe.patient import Options

    options = Options(replicas, workers, surge, client_limit, plan and plan.lower(), project())
    run(options, as_json=json, started=started)


def project() -> Path | None:
    """The folder with pyproject.toml and migrations/: this checkout, or the working directory."""
    for folder in (Path(__file__).parents[2], Path.cwd()):
        if (folder / "migrations" / "env.py").is_file():
            return folder
    return None
