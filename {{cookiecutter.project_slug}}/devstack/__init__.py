"""A real PostgreSQL behind a real PgBouncer on loopback, for `dev` and for tests.

    with devstack.postgres() as url, devstack.pgbouncer(url, default_pool_size=1) as pooler_url:
        ...

Both end with their block, and also however else this process ends: see guard.py.
"""

from devstack.login import make_login
from devstack.pgbouncer import pgbouncer
from devstack.postgres import postgres
from devstack.process import DevstackError, free_port

__all__ = ["DevstackError", "free_port", "make_login", "pgbouncer", "postgres"]
