"""How many connections a deployment needs, and how many there are."""

import math
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml

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
        ValueError: one was not given, and the manifests do not say it.
    """
    deployment, autoscaler = (
        _spec(manifests / "service" / name)
        for name in ("deployment.yaml", "horizontalpodautoscaler.yaml")
    )

    def known(name: str, given: int | None, find: Callable[[], Any]) -> int:
        if given is not None:
            return given
        try:
            return int(find())
        except (LookupError, TypeError, ValueError) as error:
            raise ValueError(f"{name} not known from {manifests}") from error

    def pool(name: str) -> int:
        if name not in settings.model_fields_set:
            with suppress(LookupError, TypeError, ValueError):
                variables = _container(deployment)["env"]
                return next(int(it["value"]) for it in variables if it["name"] == name.upper())
        return int(getattr(settings, name))

    replicas = known(
        "replicas",
        replicas,
        lambda: deployment["replicas"] if autoscaler is None else autoscaler["maxReplicas"],
    )
    return Deployment(
        replicas,
        known("workers", workers, lambda: 1 if deployment is None else _workers(deployment)),
        known("surge", surge, lambda: 1 if deployment is None else _surge(deployment, replicas)),
        pool("database_pool_size"),
        pool("database_max_overflow"),
    )


def _spec(path: Path) -> Any:
    """What a manifest asks for: None without one, and nothing of one that can't be read."""
    if not path.exists():
        return None
    with suppress(OSError, LookupError, TypeError, ValueError, yaml.YAMLError):
        return yaml.safe_load(path.read_text())["spec"]
    return {}


def _container(deployment: Any) -> Any:
    return deployment["template"]["spec"]["containers"][0]


def _workers(deployment: Any) -> int:
    container = _container(deployment)
    command = " ".join([*container.get("command", []), *container.get("args", [])])
    found = re.search(r"--workers[= ](\d+)", command)
    return int(found[1]) if found else 1


def _surge(deployment: Any, replicas: int) -> int:
    surge = deployment["strategy"]["rollingUpdate"]["maxSurge"]
    if isinstance(surge, str):
        return math.ceil(int(surge.rstrip("%")) * replicas / 100)
    return int(surge)
