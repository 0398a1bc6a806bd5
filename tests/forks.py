"""Run pytest in one copy of a service after the other, each time in a fork of this process.

Most of what a run would take is to import pytest, FastAPI, SQLAlchemy and all the others, which are the
same for every copy: this process does it once, with the Python of the service's environment. A copy's own
modules are imported in its fork only, and end with it.

Reads a line of JSON for each run, the arguments of `run`, and answers with pytest's exit code.
"""

import gc
import io
import json
import os
import signal
import sys
import traceback
from contextlib import redirect_stdout
from importlib import import_module

import pytest

# What a service and its tests import, apart from themselves. Each could be left out: it would only cost
# its time again in each fork.
IMPORTED = """
alembic.autogenerate alembic.command alembic.ddl.postgresql asgi_correlation_id asgi_lifespan asyncpg
fastapi.openapi.docs fastapi.openapi.utils httpx prometheus_fastapi_instrumentator pydantic_settings
sqlalchemy.dialects.postgresql.asyncpg sqlalchemy.ext.asyncio structlog trustme typer.testing
uvicorn.protocols.http.httptools_impl
""".split()


def prepare() -> None:
    # pytest's plugins first, which have to come through its own hook. `src` has no tests.
    with redirect_stdout(io.StringIO()):
        code = pytest.main(["-n0", "-pno:cacheprovider", "--noconftest", "src"])
    assert code == pytest.ExitCode.NO_TESTS_COLLECTED
    for name in IMPORTED:
        import_module(name)
    gc.freeze()  # so that the collector of a fork leaves these pages shared


def run(folder: str, arguments: list[str], variables: dict[str, str], output: str) -> int:
    """What `python -m pytest` does, in a fork."""
    signal.alarm(300)  # what is broken must not hang
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
    os.dup2(1, 2)
    os.chdir(folder)
    os.environ |= variables
    # In place of the folder of this file, and before the package that is installed.
    sys.path[0] = os.environ["PYTHONPATH"]
    return pytest.main(arguments)


def main() -> None:
    prepare()
    for line in sys.stdin:
        if (child := os.fork()) == 0:
            try:
                code = run(**json.loads(line))
            except BaseException:  # noqa: BLE001  this process ends here
                # What pytest found when it had told all else, such as a connection that nobody closed.
                traceback.print_exc()
                code = 1
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


main()
