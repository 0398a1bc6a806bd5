"""What one connection may hold of this process's memory before the application sees a request."""

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

# Bytes of a request line and headers, or of the trailers behind a body. A choice: twice what nginx
# lets through by default (4 x 8 KiB). One read, 256 KiB at most, may come on top.
MAX_HEAD = 64 * 1024

# Requests sent ahead on a connection, before the first of them was answered. A choice: browsers and
# proxies send none. One read may come on top.
MAX_AHEAD = 16


class HeadLimit(HttpToolsProtocol):
    """uvicorn's protocol, which refuses a head or trailers beyond `MAX_HEAD`, and more requests ahead
    of their answers than `MAX_AHEAD`.

    Its own keeps a header of any size, and copies it at every read: 100 MB took 200 MB of memory and
    answered nobody else for 8 seconds.
    """

    _unfinished = 0  # bytes since the last that belonged to a body or ended a request

    def data_received(self, data: bytes) -> None:
        self._unfinished += len(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._unfinished > MAX_HEAD:
            self.send_400_response("The request's headers are too large.")
        elif len(self.pipeline) > MAX_AHEAD:
            self.transport.close()

    def on_body(self, body: bytes) -> None:
        self._unfinished = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._unfinished = 0
        super().on_message_complete()
