"""Run a project's PostgreSQL and PgBouncer until stdin closes; print where they are, as JSON.

Started with the Python of the project, whose folder is in PYTHONPATH. Takes settings of pgbouncer.ini,
as NAME=VALUE. With login=yes PgBouncer is for the login that `dev` has, and not for the superuser.
"""

import json
import sys

import devstack

settings = dict(argument.split("=", 1) for argument in sys.argv[1:])
own = settings.pop("login", "no") == "yes"
with (
    devstack.postgres() as url,
    devstack.pgbouncer(devstack.make_login(url) if own else url, **settings) as pooler_url,
):
    print(json.dumps({"database_url": url, "pooler_url": pooler_url}), flush=True)
    sys.stdin.read()
