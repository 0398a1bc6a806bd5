"""How many connections a deployment needs, and how many there are."""

import math
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from {{ cookiecutter.package_name }}.observe.findings import Finding, failure, ok, warning
from {{ cookiecutter.package_name }}.observe.patient import Options, Patient
from {{ cookiecutter.package_name }}.settings import Settings

# What PostgreSQL has, and what of it others use. With $1 a pooler's connections for this login are not
# counted: they are what serves us.
ROOM = """
    SELECT current_setting('max_connections')::int AS most,
        current_setting('superuser_reserved_connections')::int
            + coalesce(current_setting('reserved_connections', true)::int, 0) AS reserved,
        (
            SELECT count(*)::int FROM pg_stat_activity
            -- The kind of another role's backend is hidden; with a database and a user it is a client's.
            WHERE coalesce(backend_type, 'client backend') = 'client backend'
                AND datid IS NOT NULL AND usesysid IS NOT NULL AND pid <> pg_backend_pid()
                AND NOT ($1 AND usename = current_user AND datname = current_database())
        ) AS in_use
"""

# Clients of the pooler for Supabase's compute sizes: "Compute and Disk" in its documentation, as of
# November 2026, https://supabase.com/docs/guides/platform/compute-and-disk#limits-and-constraints
PLANS = {
    "nano": 200,
    "micro": 200,
    "small": 400,
    "medium": 600,
    "large": 800,
    "xl": 1000,
    "2xl": 1500,
    "4xl": 3000,
    "8xl": 6000,
    "12xl": 9000,
    "16xl": 12000,
}

# What goes wrong with the manifests of an owner who writes them in another way.
_UNLIKE_OURS = (OSError, AttributeError, LookupError, TypeError, ValueError, yaml.YAMLError)

_POOL = ("database_pool_size", "database_max_overflow")


@dataclass(frozen=True)
class Deployment:
    """What runs at once at the worst moment: the end of a rollout, when the old replicas are finishing."""

    replicas: int
    workers: int
    surge: int
    size: int
    overflow: int

    @property
    def processes(self) -> int:
        """Each has a pool."""
        return (2 * self.replicas + self.surge) * self.workers

    @property
    def needed(self) -> int:
        """Connections, with one for a migration."""
        return self.processes * (self.size + self.overflow) + 1

    def __str__(self) -> str:
        workers = f"{self.workers} worker{'s' * (self.workers > 1)}"
        pool = f"({self.size} + {self.overflow}) connections"
        return f"(2 x {self.replicas} + {self.surge}) replicas x {workers} x {pool} + 1 = {self.needed}"

    def advice(self, limit: int) -> str:
        """What to change, so that it needs less than the limit."""
        each = (limit - 2) // self.processes
        replicas = ((limit - 2) // (self.workers * (self.size + self.overflow)) - self.surge) // 2
        ways = []
        if each > 0:
            no_overflow = " and DATABASE_MAX_OVERFLOW=0" if self.overflow else ""
            ways.append(f"DATABASE_POOL_SIZE={min(each, self.size)}{no_overflow}")
        if replicas > 0:
            ways.append(f"{replicas} replicas (maxReplicas)")
        if self.workers > 1:
            ways.append("fewer workers")
        return ", or ".join([*ways, "a higher limit"])


def plan_deployment(settings: Settings, options: Options, manifests: Path) -> Deployment:
    """The numbers that were given, or else those of the manifests, if there are any.

    A variable of the pool that is set here wins over the manifests' one.

    Raises:
        ValueError: one was not given, and the manifests do not say it.
    """
    try:
        found = _read(manifests / "service", options.replicas)
    except FileNotFoundError:
        found = {"workers": 1, "surge": 1}
    except _UNLIKE_OURS:
        found = {}
    for name in ("replicas", "workers", "surge"):
        if (given := getattr(options, name)) is not None:
            found[name] = given
        elif name not in found:
            raise ValueError(f"{name} not known from {manifests}")
    for name in _POOL:
        if name in settings.model_fields_set or name not in found:
            found[name] = getattr(settings, name)
    size, overflow = map(found.__getitem__, _POOL)
    return Deployment(found["replicas"], found["workers"], found["surge"], size, overflow)


def _read(manifests: Path, replicas: int | None) -> dict[str, int]:
    """What the manifests say. Where they are not as expected, so is the error."""
    deployment = yaml.safe_load((manifests / "deployment.yaml").read_text())["spec"]
    container = deployment["template"]["spec"]["containers"][0]
    command = " ".join([*container.get("command", []), *container.get("args", [])])
    workers = re.search(r"--workers[= ](\d+)", command)
    found = {"workers": int(workers[1]) if workers else 1}
    for variable in container.get("env", []):
        if (name := variable["name"].lower()) in _POOL and "value" in variable:
            found[name] = int(variable["value"])
    autoscaler = manifests / "horizontalpodautoscaler.yaml"
    if autoscaler.exists():
        found["replicas"] = int(yaml.safe_load(autoscaler.read_text())["spec"]["maxReplicas"])
    elif "replicas" in deployment:
        found["replicas"] = int(deployment["replicas"])
    surge = deployment["strategy"]["rollingUpdate"]["maxSurge"]
    if isinstance(surge, str):
        share = int(surge.removesuffix("%")) / 100
        surge = math.ceil(share * (found["replicas"] if replicas is None else replicas))
    return found | {"surge": int(surge)}


async def budget(patient: Patient) -> AsyncIterator[Finding]:
    """Whether the pools of all processes fit into what the pooler, or PostgreSQL, takes."""
    room = await patient.clients[0].row(ROOM, False)
    told = f"max_connections {room['most']}, {room['in_use']} in use"
    yield ok(told, max_connections=room["most"], in_use=room["in_use"])
    if patient.settings.database_pool == "null":
        told = "DATABASE_POOL=null: as many connections as requests at once"
        yield warning(told, "DATABASE_POOL=queue, unless this runs as functions")
        return
    try:
        manifests = (patient.options.project or Path()) / "kubernetes"
        deployment = plan_deployment(patient.settings, patient.options, manifests)
    except ValueError as error:
        yield warning(str(error), "give --replicas (and --workers, --surge)")
        return
    needed, limit = deployment.needed, patient.options.client_limit
    allowed = room["most"] - room["reserved"]
    if limit is None and patient.options.plan and patient.mode == "transaction":
        limit = PLANS[patient.options.plan]
    if patient.mode == "direct" or (patient.mode == "session" and (limit or needed) >= allowed):
        limit = allowed  # each client has a backend
    values = {"needed": needed, "limit": limit}
    if limit is None:
        what = "--plan on Supabase"
        if patient.mode == "session":
            what = "its pool size, in session mode"
        told = f"{deployment}; how many there may be is not known"
        yield warning(told, f"give --client-limit ({what})", **values)
    elif needed < limit:
        yield ok(f"{deployment} of {limit}: {limit - needed} are left for others", **values)
    else:
        told = f"{deployment} of {limit}: {needed - limit + 1} too many"
        yield failure(told, deployment.advice(limit), **values)
