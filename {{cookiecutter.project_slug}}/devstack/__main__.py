"""Run PostgreSQL and PgBouncer on loopback until stdin ends: `python -m devstack --help`."""

import argparse
import json
import os
import re
import sys
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from devstack import pgbouncer, postgres
from devstack.process import (
    DevstackError,
    Stopped,
    pause,
    say,
    tail,
    temporary_folder,
    watch,
)


def main() -> int:
    """0 when asked to end, 1 when something went wrong; nothing is left running either way."""
    options = arguments()
    watch()
    os.umask(0o022)  # the servers' user must get into folders we make; secrets set their own mode
    try:
        with ExitStack() as stack:
            supervise(options, stack)
    except Stopped:
        return 0
    except (DevstackError, OSError) as error:
        say(str(error))
        return 1
    return 0


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m devstack", description=__doc__)
    parser.add_argument(
        "--data", metavar="DIR", type=Path, help="keep the cluster in DIR: slower, and safe"
    )
    parser.add_argument(
        "--pooler-for",
        metavar="VARIABLE",
        help="only PgBouncer, for the PostgreSQL whose URL this environment variable holds",
    )
    parser.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[], help="for pgbouncer.ini"
    )
    options = parser.parse_args()
    for setting in options.set:
        if not re.fullmatch(r"\w+=[^\r\n]*", setting):
            parser.error(f"--set {setting!r}: expected KEY=VALUE")
    if options.pooler_for is not None:
        if options.data:
            parser.error("--pooler-for goes with --set only")
        try:
            url = urlsplit(os.environ.get(options.pooler_for, ""))
            complete = url.scheme in ("postgresql", "postgres") and url.port != 0
            complete = complete and all((url.hostname, url.username, url.password))
        except ValueError:
            complete = False
        if not complete:
            parser.error(
                f"{options.pooler_for} has to be postgresql://USER:PASSWORD@HOST:PORT/DATABASE"
            )
    return options


def supervise(options: argparse.Namespace, stack: ExitStack) -> None:
    """Start what is asked for, print one line, and stay. Left by an exception only."""
    given = dict(setting.split("=", 1) for setting in options.set)
    folder = stack.enter_context(temporary_folder())
    # In the environment and not an argument: everybody on the machine can read arguments.
    database_url = os.environ[options.pooler_for] if options.pooler_for else None
    servers = {}

    if database_url is None:
        binaries = postgres.find()
        pooler = pgbouncer.find()  # before initdb: what is missing is said at once
        home = folder
        if options.data:
            home = postgres.data_folder(options.data)
            stack.enter_context(postgres.locked(home))
        kept = options.data is not None
        password = postgres.prepare(binaries, home, kept=kept)
        log = folder / "postgres.log"
        process, port = stack.enter_context(postgres.server(binaries, home, log, kept=kept))
        servers["PostgreSQL"] = process, log
        database_url = f"postgresql://postgres:{password}@127.0.0.1:{port}/postgres"
    else:
        pooler = pgbouncer.find()

    process, port = stack.enter_context(pgbouncer.server(pooler, folder, database_url, given))
    servers["PgBouncer"] = process, folder / "pgbouncer.log"
    url = urlsplit(database_url)
    login = url.netloc.rpartition("@")[0]
    started = {
        "database_url": database_url,
        # Without its query: what it may say of TLS is meant for the other server.
        "pooler_url": urlunsplit(url._replace(netloc=f"{login}@127.0.0.1:{port}", query="")),
    }
    print(json.dumps(started), flush=True)

    while True:
        pause(0.2)
        for name, (process, log) in servers.items():
            if process.poll() is not None:
                raise DevstackError(
                    f"{name} has ended by itself, exit code {process.returncode};"
                    f" the end of its log:\n{tail(log)}"
                )


if __name__ == "__main__":
    sys.exit(main())
