"""Run one variant of the service: `serve.py MODULE PORT`, until stdin ends.

Every variant runs exactly like this: one worker, the same event loop and parser, no access log.
"""

import os
import signal
import sys
import threading

import uvicorn


def end_with_stdin() -> None:
    """Whoever started this process holds its stdin open, and is gone when it closes, killed or not."""
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    module, port = sys.argv[1:]
    threading.Thread(target=end_with_stdin, daemon=True).start()
    # uvicorn raises the signal that ended it once more: to end as one was told to is a success.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    uvicorn.run(
        f"{module}:create_app",
        factory=True,
        host="127.0.0.1",
        port=int(port),
        loop="uvloop",
        http="httptools",
        log_config=None,
        access_log=False,
        server_header=False,
        # As the service's own `serve` has it: a client may be told to come back in 10 s.
        timeout_keep_alive=75,
        # Requests that nobody waits for any more, once a benchmark has failed.
        timeout_graceful_shutdown=1,
    )
