"""Clients of several principals on a catalog whose tokens live for seconds: nothing fails when a token lapses, also under statements that run
for longer than one lives, and the catalog gives one token per principal and renewal, none per statement."""

import collections
import math
import tempfile
import threading
import time

import pyarrow as pa
import pyarrow.flight as flight
from clients import command, run as rows_of, together, varint
from outcome import Outcome
from runner import Gateway, StandIn

TITLE = "Tokens that live for 8 s"
SECONDS = 180
LIFE = 8
# A renewal comes no earlier after the one before: nine tenths of half a life.
RENEWED_AFTER = 3.6
PRINCIPALS = ["root", "engineer", "analyst", "loader"]
CLIENTS = 16
ROWS = 100_000
SUM = ROWS * (ROWS - 1) // 2
# A result that is read, and an upload that is sent, for longer than a token lives.
LONG = LIFE + 2
LONG_ROWS = 20_000_000


class Client:
    """A connection that has logged in as a principal."""

    def __init__(self, uri, principal):
        self.client = flight.FlightClient(uri.replace("grpc://", "grpc+tcp://"), generic_options=[("grpc.use_local_subchannel_pool", 1)])
        token = self.client.authenticate_basic_token(f"{principal}-client-id", f"{principal}-secret")
        self.options = flight.FlightCallOptions(headers=[token])

    def stream(self, sql):
        info = self.client.get_flight_info(flight.FlightDescriptor.for_command(command(sql)), self.options)
        return self.client.do_get(info.endpoints[0].ticket, self.options)

    def value(self, sql):
        return self.stream(sql).read_all().column(0)[0].as_py()

    def upload(self, table, parts, pause):
        """Appends so many rows to `rest.silver.<table>`, slowly, in one commit."""
        schema = pa.schema([("v", pa.int64())])
        writer, answer = self.client.do_put(flight.FlightDescriptor.for_command(ingest("rest", "silver", table)), schema, self.options)
        with writer:
            for number in range(parts):
                writer.write_batch(pa.record_batch([pa.array([number], pa.int64())], schema))
                time.sleep(pause)
            writer.done_writing()
            assert answer.read() is not None


def ingest(catalog, schema, table):
    """A CommandStatementIngest in its Any, that appends to a table."""

    def field(number, content):
        return varint(number << 3 | 2) + varint(len(content)) + content

    options = b"\x08\x02\x10\x02"
    inner = field(1, options) + field(2, table.encode()) + field(3, schema.encode()) + field(4, catalog.encode())
    name = b"type.googleapis.com/arrow.flight.protocol.sql.CommandStatementIngest"
    return field(1, name) + field(2, inner)


def reads(client, principal, running):
    """Statements of a few kinds, one after another; the number of them."""
    done = 0
    while running():
        assert client.value("SELECT sum(v)::BIGINT FROM rest.gold.t") == SUM
        assert client.value("SHOW TABLES FROM rest.gold") == "t"
        try:
            assert client.value("SELECT count(*) FROM rest.silver.t") == 1 and principal != "analyst"
        except flight.FlightUnauthorizedError:
            assert principal == "analyst"
        done += 3
    return done


def slow_reads(client, running):
    done = 0
    while running():
        began, seen = time.monotonic(), 0
        for chunk in client.stream(f"SELECT t.v, r.range FROM rest.gold.t, range({LONG_ROWS // ROWS}) r"):
            if not seen:
                time.sleep(LONG)
            seen += chunk.data.num_rows
        assert seen == LONG_ROWS and time.monotonic() - began > LIFE, f"{seen} rows"
        done += 1
    return done


def slow_writes(client, running):
    done = 0
    while running():
        client.upload("slow", 10, LONG / 10)
        done += 1
        assert client.value("SELECT count(*) FROM rest.silver.slow") == 10 * done
    return done


def asks_without_token(call):
    """Whether the gateway asks if the catalog answers at all: it has no log-in of its own, and every answer will do."""
    return call["operation"] == "config" and call["warehouse"] is None


def judge(outcome, calls, lasted, done, failures):
    outcome.check("no failure", f"{len(failures)} in {sum(done.values()):,} statements", not failures)
    refused = sum(call["status"] == 401 and not asks_without_token(call) for call in calls)
    outcome.check("no token is shown that has lapsed", f"{refused} of {len(calls):,} calls refused as such", not refused)
    tokens = collections.Counter(call["principal"] for call in calls if call["operation"] == "token")
    least, most = math.ceil(lasted / LIFE), 1 + int(lasted / RENEWED_AFTER)
    for principal in PRINCIPALS:
        seen = tokens[principal]
        outcome.check(f"one token of {principal} per renewal, {least} to {most}", seen, least <= seen <= most)
    outcome.check("both sorts of long statements end rightly", f"{done['slow reads']} reads, {done['slow writes']} writes", done["slow reads"] and done["slow writes"])
    outcome.check("none per statement", f"{sum(tokens.values())} tokens, {done['short']:,} short statements", done["short"] > 3 * sum(tokens.values()))


def run(scale):
    outcome, lock = Outcome(), threading.Lock()
    done, failures = collections.Counter(), []
    with StandIn(PRINCIPALS) as polaris, tempfile.TemporaryDirectory() as directory:
        with Gateway(f"{directory}/lake", f"pool.run_dir={directory}", *polaris.settings("engineer")) as maker:
            client = flight.FlightClient(maker.uri.replace("grpc://", "grpc+tcp://"))
            rows_of(client, f"CREATE TABLE rest.gold.t AS SELECT range AS v FROM range({ROWS})")
            rows_of(client, "CREATE TABLE rest.silver.t AS SELECT 1 AS v")
            rows_of(client, "CREATE TABLE rest.silver.slow (v BIGINT)")
            client.close()
        polaris.tell("token-lifetime", seconds=LIFE)
        polaris.tell("clear-log")
        settings = ["auth.mode=polaris", "relay.max_staleness=100ms", "pool.max_workers=8", *polaris.settings(None)]
        with Gateway(f"{directory}/lake", f"pool.run_dir={directory}", *settings) as gateway:

            def work(number, running):
                principal = PRINCIPALS[number % len(PRINCIPALS)]
                kind = {1: "slow reads", 3: "slow writes"}.get(number, "short")
                try:
                    client = Client(gateway.uri, principal)
                    count = {"slow reads": slow_reads, "slow writes": slow_writes}.get(kind, lambda c, r: reads(c, principal, r))(client, running)
                except Exception as error:  # every failure is a fault
                    with lock:
                        failures.append(f"{principal}, {kind}: {type(error).__name__} {error}")
                else:
                    with lock:
                        done[kind] += count

            began = time.monotonic()
            for thread in together(CLIENTS, SECONDS * scale, work):
                thread.join()
            lasted = time.monotonic() - began
            calls = polaris.tell("log")
            lost = gateway.log_text().count("worker lost")
        judge(outcome, calls, lasted, done, failures)
        outcome.check("no worker lost", lost, not lost)
    outcome.text = f"{CLIENTS} clients of {len(PRINCIPALS)} principals for {lasted:.0f} s.\n\n" + "\n".join(f"- {text}" for text in failures[:10])
    return outcome
