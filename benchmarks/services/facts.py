"""Print what the project runs on, as JSON: versions of what the figures depend on."""

import json
import platform
import re
import subprocess
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

from devstack.pgbouncer import find_pgbouncer
from devstack.postgres import find_postgres

PACKAGES = ("fastapi", "starlette", "pydantic", "sqlalchemy", "asyncpg", "uvicorn", "uvloop")

if __name__ == "__main__":
    with TemporaryDirectory() as scratch:
        pgbouncer, _ = find_pgbouncer(Path(scratch))
    servers = {"postgresql": [str(find_postgres() / "postgres")], "pgbouncer": pgbouncer}
    for name, command in servers.items():
        told = subprocess.check_output([*command, "--version"], text=True)
        servers[name] = re.search(r"\d+\.[\d.]+", told)[0]
    packages = {name: version(name) for name in PACKAGES}
    print(json.dumps({"python": platform.python_version(), **packages, **servers}))
