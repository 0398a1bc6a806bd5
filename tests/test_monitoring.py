"""The alerts of a service, in a real Prometheus: silent while it is healthy, and each fires once."""

import json
import re
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import Project, devstack, environment

# Reads as often as it is told to, and never waits for an answer longer than its client does.
LOAD = """
import asyncio, sys, httpx
async def read(client):
    while True:
        try:
            await client.get("/items")
        except httpx.HTTPError:
            pass
        await asyncio.sleep(0.05)
async def main():
    async with httpx.AsyncClient(base_url=sys.argv[1], trust_env=False, timeout=5) as client:
        await asyncio.gather(*(read(client) for _ in range(int(sys.argv[2]))))
asyncio.run(main())
"""

# Nobody reads while this holds the table; after a while who connects anew is refused, too.
DISTURB = """
import asyncio, sys, asyncpg
async def main():
    connection = await asyncpg.connect(sys.argv[1])
    async with connection.transaction():
        await connection.execute("LOCK TABLE items IN ACCESS EXCLUSIVE MODE")
        another = await asyncpg.connect(sys.argv[1])
        await asyncio.sleep(20)
        await another.execute("ALTER ROLE postgres PASSWORD 'another'")
        await asyncio.sleep(60)
asyncio.run(main())
"""


def _tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.fail(f"No {name} found: apt-get install prometheus")
    return found


def _port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@contextmanager
def _running(*command: object, cwd: Path, **variables: str) -> Iterator[None]:
    with (cwd / "output.log").open("a") as log:
        process = subprocess.Popen(
            [str(it) for it in command],
            cwd=cwd,
            env=environment(**variables),
            stdout=log,
            stderr=log,
        )
        try:
            yield
        finally:
            process.terminate()
            process.wait()


def _get(url: str) -> Any:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=5) as response:
        return json.load(response)


def _eventually(what: Any, seconds: float) -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            if what():
                return
        except OSError:
            pass
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.2)


def test_the_rules_are_rules(service: Project) -> None:
    result = subprocess.run(
        [_tool("promtool"), "check", "rules", service.path / "monitoring" / "alerts.yaml"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_each_alert_fires_when_it_should(service: Project, tmp_path: Path) -> None:
    rules = (service.path / "monitoring" / "alerts.yaml").read_text()
    names = set(re.findall(r"alert: (\w+)", rules))
    # The same rules, with seconds for minutes.
    rules = re.sub(r"\n +for: \w+", "", rules).replace("[10m]", "[20s]")
    rules = rules.replace("[5m]", "[10s]").replace("offset 5m", "offset 10s")
    (tmp_path / "alerts.yaml").write_text(rules)
    target, port = _port(), _port()
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": ["alerts.yaml"],
        "scrape_configs": [
            {"job_name": "service", "static_configs": [{"targets": [f"127.0.0.1:{target}"]}]}
        ],
    }
    (tmp_path / "prometheus.yaml").write_text(json.dumps(config))

    def firing() -> set[str]:
        alerts = _get(f"http://127.0.0.1:{port}/api/v1/alerts")["data"]["alerts"]
        return {it["labels"]["alertname"] for it in alerts if it["state"] == "firing"}

    def scrapes() -> float:
        told = _get(f"http://127.0.0.1:{port}/api/v1/query?query=count_over_time(up[1m])")
        return float(told["data"]["result"][0]["value"][1]) if told["data"]["result"] else 0

    with devstack(service) as stack:
        url = stack["database_url"]
        service.check("orders-api", "migrate", DATABASE_URL=url)
        # Room for a few, who do not wait for long.
        env = {
            "DATABASE_URL": url,
            "DATABASE_POOL_SIZE": "2",
            "DATABASE_MAX_OVERFLOW": "1",
            "DATABASE_POOL_TIMEOUT": "0.7",
            "DATABASE_COMMAND_TIMEOUT": "0.5",
        }
        serve = (service.python, "-m", service.package, "serve", "--port", target)
        prometheus = (
            *(_tool("prometheus"), "--config.file=prometheus.yaml", "--storage.tsdb.path=data"),
            f"--web.listen-address=127.0.0.1:{port}",
        )
        base_url = f"http://127.0.0.1:{target}"
        with (
            _running(*serve, cwd=tmp_path, **env),
            _running(*prometheus, cwd=tmp_path),
            _running(service.python, "-c", LOAD, base_url, 2, cwd=tmp_path),
        ):
            _eventually(lambda: scrapes() > 15, 60)
            assert firing() == set()
            with (
                _running(service.python, "-c", LOAD, base_url, 100, cwd=tmp_path),
                _running(service.python, "-c", DISTURB, url, cwd=tmp_path),
            ):
                fired: set[str] = set()

                def all_fired() -> bool:
                    fired.update(firing())
                    return fired == names

                try:
                    _eventually(all_fired, 55)
                except AssertionError:
                    pytest.fail(f"{names - fired} did not fire")
