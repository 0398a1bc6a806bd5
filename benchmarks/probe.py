"""Ask /livez every 20 ms, as an orchestrator would: `probe.py PORT`, until stdin ends.

A process of its own, so that a busy load generator does not look like a busy service. Then prints a
JSON list with, for each probe, when it was due (time.monotonic(), which all processes of a machine
share), its latency in seconds, and its status.

A probe that is due while another one still waits is sent right after it, and its latency counts from
when it was due: a service that stalls for a second is seen to stall fifty times.
"""

import asyncio
import json
import sys
import time

import uvloop
from load import Client, get

PERIOD = 0.02
LIVEZ = get("/livez")


async def main(port: int) -> None:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(sys.stdin, ended.set)
    client = Client(port)
    probes = []
    due = time.monotonic()
    while not ended.is_set():
        status = await client.ask(LIVEZ)
        probes.append((round(due, 4), round(time.monotonic() - due, 6), status))
        due += PERIOD
        await asyncio.sleep(due - time.monotonic())
    loop.remove_reader(sys.stdin)
    client.close()
    json.dump(probes, sys.stdout)


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
