"""A TCP proxy on 127.0.0.1 that adds latency: `delay.py HOST PORT MILLISECONDS`, until stdin ends.

Prints the port it listens on. MILLISECONDS is what one round trip takes longer: half of it on the way
there, half on the way back. Every chunk waits on its own, as on a long wire, so throughput is not
limited. What is not delayed is TCP's own handshake: a new connection costs one trip less here than
over a network.

No event loop: uvloop's timers, and those of epoll, count whole milliseconds, which is twice the 0.5 ms
that a chunk has to wait here.
"""

import select
import selectors
import socket
import sys
import time
from collections import deque
from contextlib import suppress


def main(host: str, port: int, delay: float) -> None:
    selector = selectors.DefaultSelector()
    listener = socket.create_server(("127.0.0.1", 0), backlog=512)
    print(listener.getsockname()[1], flush=True)
    selector.register(listener, selectors.EVENT_READ)
    selector.register(sys.stdin, selectors.EVENT_READ)
    peers: dict[socket.socket, socket.socket] = {}
    speaking: set[socket.socket] = set()
    # What is under way: when it arrives, where, and what (nothing: the end). In order, since the
    # delay is the same for all.
    wire: deque[tuple[float, socket.socket, bytes]] = deque()

    while True:
        wait = max(0.0, wire[0][0] - time.monotonic()) if wire else None
        # The selector's own file, since select() alone waits with microseconds.
        ready = select.select([selector], [], [], wait)[0]
        arrival = time.monotonic() + delay
        for key, _ in selector.select(0) if ready else ():
            if key.fileobj is sys.stdin:
                return
            if key.fileobj is listener:
                client, _ = listener.accept()
                server = socket.create_connection((host, port))
                for end, peer in ((client, server), (server, client)):
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    peers[end] = peer
                    speaking.add(end)
                    selector.register(end, selectors.EVENT_READ)
                continue
            data = b""
            with suppress(ConnectionError):
                data = key.fileobj.recv(65536)
            wire.append((arrival, peers[key.fileobj], data))
            if not data:
                selector.unregister(key.fileobj)
                speaking.remove(key.fileobj)
        while wire and wire[0][0] <= time.monotonic():
            _, end, data = wire.popleft()
            with suppress(OSError):  # it has gone meanwhile
                # May block, but never does: what a query and its answer take fits into any buffer.
                end.sendall(data) if data else end.shutdown(socket.SHUT_WR)
            peer = peers.get(end)
            if not data and peer and speaking.isdisjoint((end, peer)):
                for closed in (end, peer):
                    closed.close()
                    del peers[closed]


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]) / 2000)
