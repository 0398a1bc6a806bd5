"""Print what the project runs on, as JSON: versions of what the figures depend on."""

import json
import platform
from importlib.metadata import version

from devstack import pgbouncer, postgres
from devstack.process import watch

PACKAGES = ("fastapi", "starlette", "pydantic", "sqlalchemy", "asyncpg", "uvicorn", "uvloop")

if __name__ == "__main__":
    watch()  # their programs are run, which devstack does only when it can be interrupted
    servers = {"postgresql": postgres.find().version, "pgbouncer": pgbouncer.find().version}
    packages = {name: version(name) for name in PACKAGES}
    print(json.dumps({"python": platform.python_version(), **packages, **servers}))
