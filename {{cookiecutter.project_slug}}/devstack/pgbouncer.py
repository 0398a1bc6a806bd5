"""Find PgBouncer, write its configuration, run it on loopback."""

import os
import platform
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import unquote, urlsplit

from devstack.binaries import Binaries, first, install_command, not_set, with_version
from devstack.process import (
    DevstackError,
    cache_folder,
    end,
    free_port,
    last_line,
    only_one,
    pause,
    private_file,
    remove,
    run,
    say,
    spawn,
    tail,
)

USUAL_PLACES = ("/usr/sbin", "/usr/local/sbin", "/usr/local/bin", "/opt/homebrew/bin")


def find() -> Binaries:
    """The first PgBouncer that runs: PGBOUNCER_BIN, this machine's, a Debian package."""
    if wanted := os.environ.get("PGBOUNCER_BIN"):
        try:
            return check(Path(wanted).absolute())
        except DevstackError as error:
            raise DevstackError(
                f"PGBOUNCER_BIN={wanted}: {error}.\nSet it to a pgbouncer program, or unset it."
            ) from None
    install = install_command("pgbouncer")
    return first(
        "PgBouncer",
        [
            ("PGBOUNCER_BIN", "set it to a pgbouncer program", not_set),
            ("this machine", install, from_machine),
            ("Debian's package, unpacked into a cache folder", install, from_debian),
        ],
    )


def check(program: Path, libraries: str = "") -> Binaries:
    """How to call this program, if it can be used."""
    if not program.is_file():
        raise DevstackError("there is no such file")
    return with_version(Binaries(str(program.parent), program.name, libraries))


def from_machine() -> Binaries:
    """The one on PATH, or where packages put it, which is not always on PATH."""
    path = shutil.which("pgbouncer", path=os.pathsep.join((*os.get_exec_path(), *USUAL_PLACES)))
    if path is None:
        raise DevstackError("not on PATH or in the usual places")
    try:
        return check(Path(path))
    except DevstackError as error:
        raise DevstackError(f"{path}: {error}") from None


def from_debian() -> Binaries:
    """Fetch Debian's or Ubuntu's own package and unpack it: no root, nothing is installed."""
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        raise DevstackError("this is no Debian or Ubuntu")
    system = platform.freedesktop_os_release()
    # A home folder may be shared by machines whose libraries differ.
    name = "-".join(
        ("pgbouncer", system.get("ID", ""), system.get("VERSION_ID", ""), platform.machine())
    )
    place = cache_folder() / name
    with suppress(DevstackError):
        return unpacked(place)
    with only_one(name) as folder:
        with suppress(DevstackError):
            return unpacked(place)  # another process has just fetched it
        say(f"fetching PgBouncer's package into {place}")
        root = fetch(folder)
        unpacked(root)
        remove(place)
        root.rename(place)
    return unpacked(place)


def unpacked(root: Path) -> Binaries:
    """The PgBouncer in an unpacked package, with the libraries unpacked beside it."""
    libraries = sorted({str(path.parent) for path in root.rglob("*.so*")})
    return check(root / "usr/sbin/pgbouncer", ":".join(libraries))


def fetch(folder: Path) -> Path:
    """Download and unpack pgbouncer and those of its libraries that are not installed."""
    lists, root = folder / "apt", folder / "root"
    for part in (lists / "lists/partial", lists / "cache/archives/partial", root):
        part.mkdir(parents=True)
    # User root: apt would complain that its user _apt can't write here. The hooks that a system
    # may have for `update` expect to run as root on the system's own lists.
    config, own = folder / "apt.conf", folder / "apt-own.conf"
    config.write_text('APT::Sandbox::User "root";\n')
    own.write_text(
        'APT::Sandbox::User "root";\n#clear APT::Update;\n'
        f'Dir::State::lists "{lists}/lists/";\nDir::Cache "{lists}/cache/";\n'
    )
    code, _ = apt(folder, config, "download", "pgbouncer")
    if code != 0:  # no lists on this machine, as in a container, or old ones
        config = own
        apt(folder, config, "update")
    wanted, seen = ["pgbouncer"], {"pgbouncer"}
    while wanted:
        package = wanted.pop()
        code, output = apt(folder, config, "download", package)
        if code != 0:
            raise DevstackError(f"`apt-get download {package}` failed: {last_line(output)}")
        [archive] = folder.glob("*.deb")
        unpack(archive, "--extract", str(root))
        for dependency in unpack(archive, "--field", "Depends").split(","):
            names = re.findall(r"(?:^|\|)\s*([a-z0-9.+-]+)", dependency.strip())
            libraries = [name for name in names if name.startswith("lib")]
            if libraries and seen.isdisjoint(names) and not any(map(installed, names)):
                wanted.append(libraries[0])
            seen.update(libraries)
        archive.unlink()
    return root


def unpack(archive: Path, action: str, argument: str) -> str:
    """What dpkg-deb has to say about a package."""
    command = ["dpkg-deb", action, str(archive), argument]
    code, output = run(command, timeout=60, drop=False)
    if code != 0:
        raise DevstackError(f"`dpkg-deb {action}` failed: {last_line(output)}")
    return output


def apt(folder: Path, config: Path, *arguments: str) -> tuple[int, str]:
    """apt-get, with what it downloads put into `folder`."""
    command = ["apt-get", f"--config-file={config}", "--quiet", *arguments]
    # 300 s: the lists of a full Debian are 10 MB, Ubuntu's 40 MB.
    return run(command, timeout=300, drop=False, cwd=folder)


def installed(package: str) -> bool:
    """Has this machine the package already?"""
    query = ["dpkg-query", "--show", "--showformat=${db:Status-Status}", package]
    code, output = run(query, timeout=10, drop=False)
    return code == 0 and output.startswith("installed")


def configuration(
    binaries: Binaries, database_url: str, auth_file: Path, given: Mapping[str, str]
) -> tuple[str, str, dict[str, str]]:
    """The database line, the line of the auth file, and the settings of pgbouncer.ini."""
    url = urlsplit(database_url)
    user, password = unquote(url.username or ""), unquote(url.password or "")
    database = f"* = host={url.hostname} port={url.port or 5432}"
    # The password in clear: PgBouncer logs in to the server with it.
    quoted = [f'"{word.replace(chr(34), chr(34) * 2)}"' for word in (user, password)]
    settings = {
        "listen_addr": "127.0.0.1",
        "unix_socket_dir": "",
        "auth_type": "scram-sha-256",
        "auth_file": str(auth_file),
        "admin_users": user,
        "pool_mode": "transaction",
        "default_pool_size": "20",
        "max_client_conn": "500",  # of the 1024 files that a shell usually allows
        "log_connections": "0",
        "log_disconnections": "0",
    }
    # From 1.24 on the default is 200, which hides what a pooler that tracks no prepared statements
    # does to a client that uses them. Before 1.21 the key is unknown, and PgBouncer would exit.
    if [int(n) for n in re.findall(r"\d+", binaries.version)[:2]] >= [1, 21]:
        settings["max_prepared_statements"] = "0"
    return database, " ".join(quoted) + "\n", {**settings, **given}


@contextmanager
def server(
    binaries: Binaries, home: Path, database_url: str, given: Mapping[str, str]
) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """PgBouncer on a free port of 127.0.0.1 in front of a database: its process and port."""
    log, ini, users = home / "pgbouncer.log", home / "pgbouncer.ini", home / "userlist.txt"
    database, user, settings = configuration(binaries, database_url, users, given)
    private_file(users, user)
    for attempt in range(5):
        if attempt:
            pause(0.2)
        port = int(given.get("listen_port") or free_port())
        settings["listen_port"] = str(port)
        lines = [f"{key} = {value}" for key, value in settings.items()]
        ini.unlink(missing_ok=True)
        private_file(ini, "\n".join(("[databases]", database, "", "[pgbouncer]", *lines, "")))
        command = binaries.command(binaries.program, str(ini))
        with log.open("wb") as output:
            process = spawn(command, output, on_death=signal.SIGQUIT)
        try:
            if ready(process, log, port):
                yield process, port
                return
        finally:
            # SIGQUIT: at once. SIGTERM would wait for the clients to leave.
            end(process, (signal.SIGQUIT, 3))
        if not re.search(r"in use|nowhere to listen|process up", log.read_text(errors="replace")):
            break
    raise DevstackError(f"PgBouncer did not start; the end of its log:\n{tail(log)}")


def ready(process: subprocess.Popen[bytes], log: Path, port: int) -> bool:
    """Wait for PgBouncer's own word that it listens on our port.

    Whatever answers on the port may be another server that took it first.
    """
    deadline = time.monotonic() + 30
    while process.poll() is None and time.monotonic() < deadline:
        text = log.read_text(errors="replace")
        if "process up" in text:  # the last line of its start
            return re.search(rf"listening on \S+:{port}\b", text) is not None
        pause(0.02)
    return False
