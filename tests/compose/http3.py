"""One GET over HTTP/3: http3.py ADDRESS PORT NAME ROOT-CERTIFICATE PATH [HEADER=VALUE…]

It prints the status and the body's length.
"""

import asyncio
import sys

from aioquic.asyncio import QuicConnectionProtocol, connect
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration


class Get(QuicConnectionProtocol):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.http = H3Connection(self._quic)
        self.status, self.length = None, 0
        self.done = asyncio.get_running_loop().create_future()

    async def answer(self, headers):
        stream = self._quic.get_next_available_stream_id()
        self.http.send_headers(stream, [(key.encode(), value.encode()) for key, value in headers], end_stream=True)
        self.transmit()
        await self.done
        return self.status, self.length

    def quic_event_received(self, event):
        for part in self.http.handle_event(event):
            if isinstance(part, HeadersReceived):
                self.status = int(dict(part.headers)[b":status"])
            elif isinstance(part, DataReceived):
                self.length += len(part.data)
            if part.stream_ended and not self.done.done():
                self.done.set_result(None)


async def main(address, port, name, root, path, *more):
    headers = [(":method", "GET"), (":scheme", "https"), (":authority", name), (":path", path)]
    headers += [tuple(header.split("=", 1)) for header in more]
    configuration = QuicConfiguration(is_client=True, alpn_protocols=H3_ALPN, server_name=name)
    configuration.load_verify_locations(root)
    async with connect(address, int(port), configuration=configuration, create_protocol=Get) as connection:
        print(*await asyncio.wait_for(connection.answer(headers), 30))


asyncio.run(main(*sys.argv[1:]))
