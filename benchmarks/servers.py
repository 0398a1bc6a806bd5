"""Run a project's PostgreSQL and PgBouncer until stdin closes; print where they are, as JSON.

Started with the Python of the project, whose folder is in PYTHONPATH.
"""

import json
import sys

import devstack

with devstack.postgres() as url, devstack.pgbouncer(url) as pooler_url:
    print(json.dumps({"database_url": url, "pooler_url": pooler_url}), flush=True)
    sys.stdin.read()
