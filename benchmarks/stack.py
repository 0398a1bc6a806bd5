"""What the benchmarks run on: a baked project, its PostgreSQL and PgBouncer, and its processes.

Every process that is started here ends when its stdin does, so nothing is left behind however the
benchmark ends.
"""

import argparse
import json
import platform
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import psutil
from baking import bake, environment

HERE = Path(__file__).resolve().parent
SERVICES = HERE / "services"
PACKAGE = "orders_api"
"""The default answer, which the variants in services/ import."""


class BenchmarkError(SystemExit):
    """Something went wrong; the message says what. Exit code 1."""


def command(main: Callable[[], None]) -> None:
    """Run a benchmark. Ctrl-C and SIGTERM end it in good order: everything it started is ended."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


def arguments(description: str | None) -> argparse.ArgumentParser:
    """What both commands understand."""
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a smoke test of a few seconds")
    parser.add_argument("--rounds", type=int, metavar="N", help="how often everything is measured")
    parser.add_argument("--seconds", type=float, metavar="N", help="how long each time")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", default=HERE / "results", help="for the result"
    )
    parser.add_argument(
        "--project", type=Path, metavar="DIR", help="a project that is baked and synced already"
    )
    return parser


@dataclass(frozen=True)
class Project:
    """A baked project with its environment."""

    path: Path
    scratch: Path
    """A folder for this run, which goes away with it."""

    def command(self, *arguments: str) -> list[str]:
        """Python of the project's environment."""
        return [str(self.path / ".venv" / "bin" / "python"), *arguments]

    def run(self, *arguments: str, **variables: str) -> str:
        """Run Python of the project's environment to its end; return what it prints."""
        log = self.scratch / "run.log"
        variables = {"PYTHONPATH": str(self.path), **variables}
        with process(self.command(*arguments), log=log, cwd=self.path, **variables) as child:
            assert child.stdout
            output = child.stdout.read()
            if child.wait() != 0:
                raise BenchmarkError(f"{' '.join(arguments)} failed:\n{output}{tail(log)}")
        return output


@contextmanager
def project(given: Path | None) -> Iterator[Project]:
    """Bake the template with its default answers, or use what was baked already."""
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as folder:
        scratch = Path(folder)
        if given is not None:
            yield Project(given.resolve(), scratch)
            return
        print("Baking the template ...", file=sys.stderr, flush=True)
        baked = bake(scratch)
        subprocess.run(["uv", "sync", "--quiet"], cwd=baked, env=environment(), check=True)
        yield Project(baked, scratch)


@contextmanager
def process(
    command: list[str], *, log: Path, cwd: Path, speaks: bool = True, **variables: str
) -> Iterator[subprocess.Popen[str]]:
    """Run a command that ends when its stdin does, with its messages in a file.

    `speaks`: somebody reads its standard output. Otherwise that goes to the file too.
    """
    with log.open("a") as messages:
        child = subprocess.Popen(
            command,
            cwd=cwd,
            env=environment(LOG_LEVEL="warning") | variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE if speaks else messages,
            stderr=messages,
            text=True,
            start_new_session=True,  # Ctrl-C is for us, who then end it
        )
    with child:
        try:
            yield child
        finally:
            end(child)


def end(child: subprocess.Popen[str]) -> None:
    """Ask a process to end, and wait until it has."""
    assert child.stdin
    if not child.stdin.closed:
        child.stdin.close()
    try:
        child.wait(40)  # what the servers of devstack may take
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def first_line(child: subprocess.Popen[str], log: Path) -> str:
    """What a process prints once it is ready."""
    assert child.stdout
    line = child.stdout.readline()
    if not line:
        raise BenchmarkError(f"{log.stem} did not start:\n{tail(log)}")
    return line


def tail(log: Path) -> str:
    """The end of a log."""
    return log.read_text(errors="replace")[-4000:]


@dataclass(frozen=True)
class Servers:
    """PostgreSQL and PgBouncer, for the project."""

    database_url: str
    pooler_url: str
    pooler_port: int


@contextmanager
def servers(project: Project) -> Iterator[Servers]:
    """A new database behind PgBouncer in transaction mode with 20 server connections."""
    log = project.scratch / "devstack.log"
    command = project.command(str(HERE / "servers.py"))
    with process(command, log=log, cwd=project.path, PYTHONPATH=str(project.path)) as child:
        started = json.loads(first_line(child, log))
        # They offer no TLS, and to ask for it costs a round trip.
        database_url, pooler_url = (
            started[name] + "?sslmode=disable" for name in ("database_url", "pooler_url")
        )
        port = int(pooler_url.rpartition(":")[2].partition("/")[0])
        yield Servers(database_url, pooler_url, port)


@contextmanager
def delayed(project: Project, servers: Servers, milliseconds: float) -> Iterator[str]:
    """The pooler's URL, with so many milliseconds more for each round trip to it."""
    if milliseconds == 0:
        yield servers.pooler_url
        return
    log = project.scratch / "delay.log"
    script = [sys.executable, str(HERE / "delay.py")]
    command = [*script, "127.0.0.1", str(servers.pooler_port), str(milliseconds)]
    with process(command, log=log, cwd=project.scratch) as child:
        port = int(first_line(child, log))
        yield servers.pooler_url.replace(f":{servers.pooler_port}/", f":{port}/")


@dataclass(frozen=True)
class Service:
    """A running variant."""

    name: str
    port: int
    process: subprocess.Popen[str]
    log: Path

    def cpu_seconds(self) -> float:
        """The processor time it has used so far."""
        times = psutil.Process(self.process.pid).cpu_times()
        return times.user + times.system

    def fail(self, problem: str) -> BenchmarkError:
        """What to raise when it did not do as it should."""
        return BenchmarkError(f"{self.name}: {problem}\n{tail(self.log)}")


@contextmanager
def services(
    project: Project, variants: dict[str, tuple[str, dict[str, str]]], url: str
) -> Iterator[dict[str, Service]]:
    """Run variants, each a process of its own: a module of services/ and its variables, by name."""
    with ExitStack() as stack:
        running = {}
        for name, (module, variables) in variants.items():
            log = project.scratch / f"{name}.log"
            port = _free_port()
            child = stack.enter_context(
                process(
                    project.command(str(SERVICES / "serve.py"), module, str(port)),
                    log=log,
                    cwd=project.scratch,
                    speaks=False,
                    DATABASE_URL=url,
                    **variables,
                )
            )
            running[name] = Service(name, port, child, log)
        for service in running.values():
            _wait_until_it_answers(service)
        yield running
        for service in reversed(running.values()):
            assert service.process.stdin
            service.process.stdin.close()  # all at once; the stack then waits for each


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait_until_it_answers(service: Service) -> None:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and service.process.poll() is None:
        try:
            direct.open(f"http://127.0.0.1:{service.port}/docs", timeout=5).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise service.fail("it did not start")


def raise_file_limit(needed: int) -> None:
    """Allow this process, and so those that it starts, more open files than a shell usually does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise BenchmarkError(
            f"This needs {needed} open files, and the hard limit is {hard}: raise it for your user"
            " (`ulimit -Hn`, limits.conf), or ask for fewer --clients."
        )
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def facts(project: Project) -> dict[str, Any]:
    """When, on what machine and with which versions. No name of the machine, and no path."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": {
            "cpu": _cpu_model(),
            "cores": psutil.cpu_count(),
            "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
            "system": _system(),
            "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        },
        "versions": json.loads(project.run(str(SERVICES / "facts.py"))),
    }


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    for line in cpuinfo.read_text().splitlines() if cpuinfo.exists() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _system() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return platform.platform(terse=True)


def write(out: Path, name: str, result: dict[str, Any]) -> Path:
    """Write a result: an object a line in lists, so that a difference can be read."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / name
    with path.open("w") as file:
        _write_object(file, result)
    return path


def _write_object(file: IO[str], result: dict[str, Any]) -> None:
    parts = []
    for key, value in result.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            lines = ",\n".join(f"    {json.dumps(each)}" for each in value)
            parts.append(f"  {json.dumps(key)}: [\n{lines}\n  ]")
        else:
            parts.append(f"  {json.dumps(key)}: {json.dumps(value)}")
    file.write("{\n" + ",\n".join(parts) + "\n}\n")
