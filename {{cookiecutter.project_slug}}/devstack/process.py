"""What running either server takes: a safe user, folders, locks, ports, waiting, ending."""

import ctypes
import fcntl
import os
import pwd
import select
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

LOCK = "devstack.lock"
TEMPORARY = "devstack-tmp-"
PR_SET_PDEATHSIG = 1  # linux/prctl.h

# Both servers refuse to run as root, so root starts them as nobody.
NOBODY = pwd.getpwnam("nobody") if os.geteuid() == 0 else None

_prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None
_wake = -1


class DevstackError(Exception):
    """Something the reader can put right; the message says how."""


class Stopped(Exception):
    """stdin has ended, or a signal asks this process to end."""


def say(message: str) -> None:
    """Tell a person how it goes."""
    with suppress(OSError):  # whoever read our stderr may be gone
        print(f"devstack: {message}", file=sys.stderr, flush=True)


def watch() -> None:
    """From here on SIGINT, SIGTERM and SIGHUP interrupt `pause` and nothing else."""
    global _wake
    _wake, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: None)


def pause(seconds: float) -> None:
    """Sleep. The one place where this process notices that it is to end, by raising Stopped."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            ready, _, _ = select.select([0, _wake], [], [], max(0.0, deadline - time.monotonic()))
            if ready and (_wake in ready or not os.read(0, 4096)):
                raise Stopped
        except OSError:  # stdin was closed, or its terminal is gone
            raise Stopped from None
        if not ready or time.monotonic() >= deadline:
            return


def spawn(
    command: list[str],
    output: IO[bytes],
    *,
    on_death: int,
    drop: bool = True,
    cwd: Path | str = "/",
) -> subprocess.Popen[bytes]:
    """Start a process in a session of its own, so that Ctrl-C reaches only us.

    `on_death`: the signal Linux sends it if this process is killed. `drop`: as nobody if we are
    root. cwd is / because nobody could not look up the name of a folder below /root.
    """
    parent = os.getpid()

    def tie() -> None:
        if _prctl is not None:
            _prctl(PR_SET_PDEATHSIG, on_death)
        if os.getppid() != parent:
            os._exit(1)

    foreign = ("PG", "LC_", "LANG")  # PGDATA, PGOPTIONS ... are meant for other servers
    environment = {k: v for k, v in os.environ.items() if not k.startswith(foreign)}
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        cwd=cwd,
        env={**environment, "LC_ALL": "C"},
        start_new_session=True,
        preexec_fn=tie,  # noqa: PLW1509  there are no threads here
        user=NOBODY.pw_uid if NOBODY and drop else None,
        group=NOBODY.pw_gid if NOBODY and drop else None,
        extra_groups=[] if NOBODY and drop else None,
    )


def run(
    command: list[str],
    *,
    timeout: float,
    drop: bool = True,
    cwd: Path | str = "/",
) -> tuple[int, str]:
    """Run to the end: exit code and output. Ends the command, children too, when we are to end."""
    with tempfile.TemporaryFile() as output:
        try:
            process = spawn(command, output, on_death=signal.SIGKILL, drop=drop, cwd=cwd)
        except OSError as error:
            return 126, f"{command[0]}: {error.strerror}"
        deadline = time.monotonic() + timeout
        try:
            while process.poll() is None:
                if time.monotonic() > deadline:
                    raise DevstackError(f"`{command[0]}` did not end within {timeout:g} s")
                pause(0.01)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        output.seek(0)
        return process.returncode, output.read().decode(errors="replace")


def end(process: subprocess.Popen[bytes], *steps: tuple[signal.Signals, float]) -> None:
    """Send each signal in turn until the process has gone, waiting the seconds given with it."""
    for number, seconds in (*steps, (signal.SIGKILL, 5.0)):
        if process.poll() is None:
            process.send_signal(number)
            with suppress(subprocess.TimeoutExpired):
                process.wait(seconds)


def free_port() -> int:
    """A port nobody listens on now. It may be taken before we use it, so callers try again."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def tail(log: Path, lines: int = 8) -> str:
    """The end of a server's log, indented, for an error message."""
    found = log.read_text(errors="replace").splitlines() if log.exists() else []
    return "\n".join(f"  {line}" for line in found[-lines:]) or "  (its log is empty)"


def last_line(output: str) -> str:
    """The line of a command's output that most likely says what was wrong."""
    return (output.strip().splitlines() or ["no output"])[-1].strip()


def reachable(path: Path) -> bool:
    """Can the user who runs the servers get to this folder, or to where it would be made?"""
    if NOBODY is None:
        return True
    existing = [folder for folder in (path, *path.parents) if folder.exists()]
    return all(
        folder.stat().st_mode & 0o001
        or (folder.stat().st_uid == NOBODY.pw_uid and folder.stat().st_mode & 0o100)
        for folder in existing
    )


def give(path: Path) -> Path:
    """Hand something we just made to the user who runs the servers."""
    if NOBODY is not None:
        os.chown(path, NOBODY.pw_uid, NOBODY.pw_gid)
    return path


def private_file(path: Path, text: str) -> Path:
    """A new file that only the user who runs the servers can read."""
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    return give(path)


@contextmanager
def lock(path: Path) -> Iterator[bool]:
    """Hold a lock, which ends with the block or with this process; False if another has it.

    A symbolic link, or a file that is not ours, may be somebody's trap in a folder like /tmp: OSError.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
    with open(os.open(path, flags, 0o600)) as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
            raise PermissionError(f"{path} is not a file of ours")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def remove(folder: Path) -> None:
    """Delete a tree, even while what we killed in it writes its last file."""
    for _ in range(20):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.05)


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder for one run. Also removes those of runs that were killed."""
    places = [Path(tempfile.gettempdir()).resolve(), Path("/var/tmp"), Path("/tmp")]
    parent = next((place for place in places if reachable(place)), places[0])
    for stale in parent.glob(f"{TEMPORARY}*"):
        # 60 s: between making its folder and locking it a run needs far less than one.
        with suppress(OSError):
            found = stale.lstat()
            ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
            if ours and found.st_mtime < time.time() - 60:
                with lock(stale / LOCK) as unused:
                    if unused:
                        remove(stale)
    folder = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=parent))
    folder.chmod(0o711)  # the servers' user gets at what it is given in there, and lists nothing
    try:
        with lock(folder / LOCK):
            yield folder
    finally:
        remove(folder)


def cache_folder() -> Path:
    """Where what was fetched or copied stays; as root a place that nobody can read too."""
    if NOBODY is not None:
        folder = Path("/var/cache/devstack")
    else:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "devstack"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def only_one(name: str) -> Iterator[Path]:
    """Work in the cache one process at a time, in an empty folder that is removed at the end."""
    cache = cache_folder()
    while True:
        with lock(cache / f"{name}.lock") as ours:
            if ours:
                for stale in cache.glob(f"{name}.new-*"):
                    remove(stale)
                folder = Path(tempfile.mkdtemp(prefix=f"{name}.new-", dir=cache))
                folder.chmod(0o755)
                try:
                    yield folder
                finally:
                    remove(folder)
                return
        pause(0.1)
