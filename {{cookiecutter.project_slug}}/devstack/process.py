"""What running either server takes: a guard, a user that is not root, a port, waiting."""

import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

PARENT = os.getppid()  # asked early: who is orphaned later can't know
TAKEN = "Address already in use"
GUARD = str(Path(__file__).with_name("guard.py"))


class DevstackError(Exception):
    """Something the reader can put right; the message says how."""


@contextmanager
def guarded(
    command: list[str], log: Path, stop: signal.Signals, lock: int | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command until the block ends, or this process: then its guard deletes the log's folder."""
    foreign = ("PG", "LC_", "LANG")  # PGDATA, PGOPTIONS ... are meant for other servers
    environment = {k: v for k, v in os.environ.items() if not k.startswith(foreign)}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", GUARD, str(stop.value), str(log.parent), *command],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd="/",
            env={**environment, "LC_ALL": "C"},
            start_new_session=True,  # Ctrl-C in a terminal is for us, who end it in good time
            pass_fds=() if lock is None else (lock,),
        )
    try:
        yield process
    finally:
        process.communicate(b".")


def run(command: list[str], scratch: Path, lock: int | None = None) -> tuple[int, str]:
    """Run a command to its end: exit code and output."""
    log = scratch / "output"
    with guarded(command, log, signal.SIGKILL, lock) as process:
        process.wait()
    return process.returncode, log.read_text(errors="replace").strip()


def unprivileged() -> list[str]:
    """Words before a command: root has to run both servers as nobody, but may let it read all files."""
    if os.geteuid() != 0:
        return []
    if shutil.which("setpriv") is None:
        raise DevstackError("Root needs setpriv here: install util-linux, or be another user.")
    nobody = pwd.getpwnam("nobody")
    user = [f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups"]
    rights = [f"--{which}-caps=-all,+dac_override" for which in ("inh", "ambient")]
    # Without it access(2), which PostgreSQL asks, ignores them.
    rights.append("--securebits=+no_setuid_fixup")
    return ["setpriv", *user, *rights, "--pdeathsig=keep"]


@contextmanager
def server(
    command: Callable[[int], list[str]],
    log: Path,
    *,
    says: str,
    stop: signal.Signals,
    port: int = 0,
    before: int = 0,
    lock: int | None = None,
    advice: str = "",
) -> Iterator[int]:
    """Run the command for `port`, or else one that is free, `before` if it is; the port, once its log
    `says` it is ready. Another may answer there."""
    for _ in range(5):
        chosen = port or free_port(before)
        with guarded([*unprivileged(), *command(chosen)], log, stop, lock) as process:
            if ready(process, log, says.format(port=chosen)):
                yield chosen
                if process.poll() is None:
                    return
                raise DevstackError(f"{log.stem} ended by itself; its log:\n{tail(log)}")
        if TAKEN not in log.read_text(errors="replace"):
            break
        time.sleep(0.2)
    raise DevstackError(f"{log.stem} did not start; its log:\n{tail(log)}{advice}")


def ready(process: subprocess.Popen[bytes], log: Path, says: str) -> bool:
    """Wait for a server's word that it is ready, or that it can't be."""
    deadline = time.monotonic() + 60  # recovery after a crash takes its time
    while True:
        ended = process.poll() is not None or time.monotonic() > deadline
        text = log.read_text(errors="replace")
        if re.search(says, text, re.DOTALL):
            return True
        if ended or TAKEN in text:
            return False
        time.sleep(0.02)


def free_port(preferred: int = 0) -> int:
    """A port nobody listens on now. It may be taken before we use it, so callers try again."""
    try:
        with socket.create_server(("127.0.0.1", preferred)) as probe:
            return int(probe.getsockname()[1])
    except OSError:
        return free_port()


def tail(log: Path) -> str:
    """The end of a server's log, indented, for an error message."""
    return "\n".join(f"  {line}" for line in log.read_text(errors="replace").splitlines()[-8:])
