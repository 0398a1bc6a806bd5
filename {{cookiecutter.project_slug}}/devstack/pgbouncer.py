"""Find PgBouncer, write its configuration, run it on loopback."""

import os
import re
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import unquote, urlsplit, urlunsplit

from devstack.process import DevstackError, run, server

USUAL_PLACES = ("/usr/sbin", "/usr/local/sbin", "/usr/local/bin", "/opt/homebrew/bin")
INSTALL = {"apt-get": "install", "dnf": "install", "brew": "install", "apk": "add", "pacman": "-S"}


@contextmanager
def pgbouncer(url: str, **settings: object) -> Iterator[str]:
    """PgBouncer in transaction mode, on a port of 127.0.0.1, before the PostgreSQL at `url`; the same
    URL through it. `settings` are those of pgbouncer.ini."""
    target = urlsplit(url)
    if not (target.hostname and target.username and target.password):
        raise DevstackError("PgBouncer needs a URL like postgresql://USER:PASSWORD@HOST:PORT/NAME.")
    user, password = unquote(target.username), unquote(target.password)
    with TemporaryDirectory() as folder:
        scratch = Path(folder)
        command, version = find_pgbouncer(scratch)
        ini, users = scratch / "pgbouncer.ini", scratch / "userlist.txt"
        # The password in clear: PgBouncer logs in to the server with it.
        users.write_text(" ".join('"' + each.replace('"', '""') + '"' for each in (user, password)))
        settings = {
            "listen_addr": "127.0.0.1",
            "unix_socket_dir": "",
            "auth_type": "scram-sha-256",
            "auth_file": users,
            "admin_users": user,
            "pool_mode": "transaction",
            "default_pool_size": 20,
            "max_client_conn": 500,  # of the 1024 files that a shell usually allows
            "log_connections": 0,
            "log_disconnections": 0,
            # From 1.24 on the default is 200, which hides what a pooler that tracks no prepared
            # statements does to a client that uses them. 1.20 and older end at the unknown key.
            **({"max_prepared_statements": 0} if version >= (1, 21) else {}),
            **settings,
        }

        def configured(port: int) -> list[str]:
            lines = ["[databases]", f"* = host={target.hostname} port={target.port or 5432}"]
            lines += ["[pgbouncer]", *(f"{k} = {v}" for k, v in settings.items())]
            ini.write_text("\n".join((*lines, f"listen_port = {port}", "")))
            return [*command, str(ini)]

        with server(
            configured,
            scratch / "PgBouncer",
            says="listening on 127.0.0.1:{port}\\b.*process up",
            stop=signal.SIGQUIT,  # at once; SIGTERM would wait for the clients to leave
            port=int(str(settings.pop("listen_port", 0))),
        ) as port:
            netloc = f"{target.netloc.rpartition('@')[0]}@127.0.0.1:{port}"
            # Without its query: what it may say of TLS is meant for the other server.
            yield urlunsplit(target._replace(netloc=netloc, query=""))


def find_pgbouncer(scratch: Path) -> tuple[list[str], tuple[int, ...]]:
    """The command and version of PGBOUNCER_BIN, or this machine's, or Debian's package."""
    places = os.pathsep.join((*os.get_exec_path(), *USUAL_PLACES))
    if found := os.environ.get("PGBOUNCER_BIN") or shutil.which("pgbouncer", path=places):
        return checked([str(Path(found).absolute())], scratch)
    if shutil.which("apt-get") is None:
        raise DevstackError(f"No PgBouncer found. {install()}")
    kept = Path(sys.prefix, "pgbouncer")  # it goes when the environment goes
    if kept.exists():
        with suppress(DevstackError):
            return checked(unpacked(kept), scratch)
        shutil.rmtree(kept)
    fetch_from_debian(kept, scratch)
    return checked(unpacked(kept), scratch)


def checked(command: list[str], scratch: Path) -> tuple[list[str], tuple[int, ...]]:
    """The command with its version, which it has to tell itself: so it does run."""
    code, output = run([*command, "--version"], scratch)
    version = re.search(r"PgBouncer (\d+)\.(\d+)", output)
    if code != 0 or version is None:
        raise DevstackError(f"{command[-1]} can't be used: {complaint(output)}. Set PGBOUNCER_BIN.")
    return command, tuple(map(int, version.groups()))


def unpacked(root: Path) -> list[str]:
    """The command of an unpacked package, with the libraries unpacked beside it."""
    libraries = ":".join(sorted({str(path.parent) for path in root.rglob("lib*.so.*")}))
    return ["/usr/bin/env", f"LD_LIBRARY_PATH={libraries}", str(root / "usr/sbin/pgbouncer")]


def fetch_from_debian(kept: Path, scratch: Path) -> None:
    """Unpack Debian's or Ubuntu's package and what it needs: that takes no root, installs nothing."""
    print("Fetching PgBouncer's package ...", file=sys.stderr, flush=True)
    cache, lists, config = scratch / "cache", scratch / "lists", scratch / "apt.conf"
    for folder in (cache / "archives/partial", lists / "partial"):
        folder.mkdir(parents=True)
    # Not as apt's user _apt, who can't write here, and without a system's hooks, which expect root.
    config.write_text(f'Dir::Cache "{cache}";\nAPT::Sandbox::User "root";\n#clear APT::Update;\n')
    apt = ["apt-get", f"--config-file={config}", "--option=Debug::NoLocking=1"]
    install_it = ["install", "--download-only", "--no-install-recommends", "--yes", "pgbouncer"]
    code, told = run([*apt, *install_it], scratch)
    if code != 0:  # no lists on this machine, as in a container, or old ones
        apt.append(f"--option=Dir::State::lists={lists}")
        told = run([*apt, "update"], scratch)[1]
        code, output = run([*apt, *install_it], scratch)
        told += f"\n{output}"
    if code != 0:
        no_network = re.search(r"resolv|onnect|timed out|unreachable", told)
        cure = "There is no network to fetch it: try again with one." if no_network else install()
        raise DevstackError(f"No PgBouncer found. {cure} apt-get says: {complaint(told)}")
    # Renamed when complete: several may do this at once.
    with TemporaryDirectory(dir=sys.prefix) as unfinished:
        root = Path(unfinished, "root")
        for archive in cache.glob("archives/*.deb"):
            run(["dpkg-deb", "--extract", str(archive), str(root)], scratch)
        with suppress(OSError):  # another was faster
            root.rename(kept)


def install() -> str:
    """How a person gets PgBouncer on this system."""
    tool = next(filter(shutil.which, INSTALL), "")
    return f"Install it: `{tool} {INSTALL[tool]} pgbouncer`." if tool else "Install pgbouncer."


def complaint(output: str) -> str:
    """The line that most likely says what was wrong: apt's first, or else the last."""
    lines = re.findall(r"^[EW]: (.+)", output, re.MULTILINE) or [output.rpartition("\n")[2]]
    return lines[0].strip() or "no output"
