"""Run a project's PostgreSQL and PgBouncer until stdin closes; print where they are, as JSON.

Started with the Python of the project, whose folder is in PYTHONPATH. Takes settings of pgbouncer.ini,
as NAME=VALUE.
"""

import json
import sys

import devstack

settings = dict(argument.split("=", 1) for argument in sys.argv[1:])
with devstack.postgres() as url, devstack.pgbouncer(url, **settings) as pooler_url:
    print(json.dumps({"database_url": url, "pooler_url": pooler_url}), flush=True)
    sys.stdin.read()
