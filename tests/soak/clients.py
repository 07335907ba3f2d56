"""Raw Flight clients for the parts of `make soak`: GetFlightInfo and DoGet, batch by batch, with nothing read ahead and nothing tried again,
so that a part knows which rows it had when a call failed. Owns no measurement."""

import threading
import time

import pyarrow.flight as flight

ROWS = 300_000
SUM = ROWS * (ROWS - 1) // 2


def varint(number):
    """A length as protobuf writes it."""
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def command(sql):
    """A CommandStatementQuery in its Any."""
    text = sql.encode()
    query = b"\x0a" + varint(len(text)) + text
    name = b"type.googleapis.com/arrow.flight.protocol.sql.CommandStatementQuery"
    return b"\x0a" + varint(len(name)) + name + b"\x12" + varint(len(query)) + query


def connect(uri):
    """A channel of its own: gRPC would share one between clients of the same address."""
    return flight.FlightClient(uri.replace("grpc://", "grpc+tcp://"), generic_options=[("grpc.use_local_subchannel_pool", 1)])


def open_stream(client, sql):
    """A result, opened."""
    info = client.get_flight_info(flight.FlightDescriptor.for_command(command(sql)))
    return client.do_get(info.endpoints[0].ticket)


def batches(client, sql):
    """The batches of a result as they come."""
    for chunk in open_stream(client, sql):
        yield chunk.data


def run(client, sql):
    """A statement's result as one table."""
    return open_stream(client, sql).read_all()


def make_table(uri):
    """`lake.gold.t`, in which each number from 0 stands once."""
    client = connect(uri)
    run(client, "CREATE SCHEMA IF NOT EXISTS lake.gold")
    run(client, f"CREATE TABLE lake.gold.t AS SELECT i AS v FROM range({ROWS}) r(i)")
    client.close()


def together(number, seconds, work):
    """Calls `work(n, running)` in so many threads; `running()` says whether there is time for another round. Waits for all of them."""
    end = time.monotonic() + seconds
    threads = [threading.Thread(target=work, args=[n, lambda: time.monotonic() < end]) for n in range(number)]
    for thread in threads:
        thread.start()
    return threads
