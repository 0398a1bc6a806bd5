"""How many connections a deployment needs, and how many there are."""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from {{ cookiecutter.package_name }}.settings import Settings


class Plan(NamedTuple):
    connections: int
    """`max_connections` of PostgreSQL."""
    clients: int
    """Clients of the pooler."""


# Supabase's compute sizes: "Compute and Disk" in its documentation, as of November 2026,
# https://supabase.com/docs/guides/platform/compute-and-disk#limits-and-constraints
PLANS = {
    "nano": Plan(60, 200),
    "micro": Plan(60, 200),
    "small": Plan(90, 400),
    "medium": Plan(120, 600),
    "large": Plan(160, 800),
    "xl": Plan(240, 1000),
    "2xl": Plan(380, 1500),
    "4xl": Plan(480, 3000),
    "8xl": Plan(490, 6000),
    "12xl": Plan(500, 9000),
    "16xl": Plan(500, 12000),
}

# What a pooler takes where nobody has said anything else: Supabase's smallest size, and PgBouncer's own
# default for max_client_conn.
LEAST_CLIENTS = {"Supavisor": PLANS["nano"].clients, "PgBouncer": 100}


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


def plan_deployment(
    settings: Settings,
    manifests: Path,
    *,
    replicas: int | None,
    workers: int | None,
    surge: int | None,
) -> Deployment:
    """The numbers that were given, or else those of the manifests, if there are any.

    A variable of the pool that is set here wins over the manifests' one.

    Raises:
        ValueError: the manifests are not those of this template any more.
    """
    known = _read(manifests) if manifests.is_dir() else {}

    def pool(name: str) -> int:
        return int(
            getattr(settings, name)
            if name in settings.model_fields_set or name not in known
            else known[name]
        )

    replicas = replicas or known.get("replicas", 1)
    if surge is None:
        surge = _surge(known.get("surge", 1), replicas)
    return Deployment(
        replicas,
        workers or known.get("workers", 1),
        surge,
        pool("database_pool_size"),
        pool("database_max_overflow"),
    )


def _read(manifests: Path) -> dict[str, Any]:
    import yaml  # which uvicorn[standard] brings

    try:
        [deployment, autoscaler] = [
            yaml.safe_load((manifests / "service" / name).read_text())["spec"]
            for name in ("deployment.yaml", "horizontalpodautoscaler.yaml")
        ]
        container = deployment["template"]["spec"]["containers"][0]
        command = " ".join([*container.get("command", []), *container.get("args", [])])
        workers = re.search(r"--workers[= ](\d+)", command)
        variables = {it["name"].lower(): it["value"] for it in container["env"] if "value" in it}
        return {
            **variables,
            "replicas": int(autoscaler["maxReplicas"]),
            "surge": deployment["strategy"]["rollingUpdate"]["maxSurge"],
            "workers": int(workers[1]) if workers else 1,
        }
    except (OSError, LookupError, TypeError, ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{manifests} can't be read: {type(error).__name__} {error}") from None


def _surge(surge: int | str, replicas: int) -> int:
    if isinstance(surge, str):
        return math.ceil(int(surge.rstrip("%")) * replicas / 100)
    return surge
