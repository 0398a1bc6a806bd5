"""Run one command until stdin closes, as the kernel sees to however our parent ends.

`guard.py SIGNAL FOLDER COMMAND...`: SIGNAL ends the command. FOLDER is deleted if stdin closes
without a byte: our parent can't do it any more.
"""

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import threading
from contextlib import suppress

sys.tracebacklimit = 0  # a program that can't be run is a line for whoever reads the log


def main() -> int:
    """The command's exit code."""
    stop, folder, *command = sys.argv[1:]
    orphaned = threading.Event()

    def end_with_guard() -> None:
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(1, int(stop))  # PR_SET_PDEATHSIG

    signal.signal(signal.SIGQUIT, signal.SIG_DFL)  # a background job has it ignored
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        close_fds=False,  # with the lock that we were given
        start_new_session=True,
        preexec_fn=end_with_guard,  # noqa: PLW1509  there is one thread yet
    )

    def end() -> None:
        if not os.read(0, 1):
            orphaned.set()
        for number, seconds in ((int(stop), 10), (signal.SIGQUIT, 5), (signal.SIGKILL, None)):
            process.send_signal(number)
            with suppress(subprocess.TimeoutExpired):
                process.wait(seconds)
                return

    threading.Thread(target=end, daemon=True).start()
    code = process.wait()
    with suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL)  # what initdb has started
    if orphaned.is_set():
        shutil.rmtree(folder, ignore_errors=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
