"""Minutes of mixed load by 16 clients over the stock ADBC driver, then a look at what is left.

Clients read small, break large reads off, insert, ingest, list, and make mistakes. Afterwards no row of an acknowledged write may be
missing or there twice, no file handle, thread or process may be left over, and the gateway's memory must be near where it was."""

import collections
import random
import tempfile
import threading
import time

import adbc_driver_flightsql.dbapi as adbc
import pyarrow
from outcome import Outcome
from runner import Gateway, demo_lake, handles, pss, threads

TITLE = "Mixed load"
SECONDS = 300
CLIENTS = 16
# Clients insert into these in turn, so that some meet on one table.
TABLES = 4
WARM_UP_SECONDS = 20
# Documented answers to a writer that lost a race, and to one more than the queue takes: nothing has happened, run it again.
# The driver has no status of its own for these; it puts gRPC's name of the code behind the text.
DOCUMENTED = {"(Aborted;": "ABORTED", "(ResourceExhausted;": "RESOURCE_EXHAUSTED"}
SETTLE_SECONDS = 40
MEMORY_SLACK = 64e6
# Connections to workers that the pool keeps for the next client, with their threads: as many as were busy at once, which differs.
KEPT_SLACK = 2 * CLIENTS


class Book:
    """What the clients did. One lock; held for additions only."""

    def __init__(self):
        self.lock = threading.Lock()
        self.done = collections.Counter()
        self.retries = collections.Counter()
        self.seconds = collections.defaultdict(list)
        self.unexpected = []
        self.acknowledged = collections.defaultdict(dict)

    def ended(self, kind, seconds):
        with self.lock:
            self.done[kind] += 1
            self.seconds[kind].append(seconds)

    def failed(self, kind, error):
        with self.lock:
            self.unexpected.append(f"{kind}: {type(error).__name__}: {' '.join(str(error).split())}")


def documented(error):
    """The code, where it is one that a client must expect."""
    return next((code for mark, code in DOCUMENTED.items() if mark in str(error)), None)


class Client:
    """One client with a connection of its own, which it renews now and then."""

    def __init__(self, number, uri, book):
        self.number, self.uri, self.book = number, uri, book
        self.random = random.Random(number)
        self.connection = None
        self.sequence = 0

    def run(self, until):
        kinds = [self.small_read] * 8 + [self.broken_off_read] * 2 + [self.insert] * 3 + [self.ingest, self.list, self.objects, self.mistake]
        while time.monotonic() < until:
            if self.connection is None or self.random.random() < 0.02:
                self.close()
                self.connection = adbc.connect(self.uri, autocommit=True)
            kind = self.random.choice(kinds)
            began = time.monotonic()
            try:
                kind()
                self.book.ended(kind.__name__, time.monotonic() - began)
            except Exception as error:  # every failure is judged at the end
                self.book.failed(kind.__name__, error)
        self.close()

    def close(self):
        if self.connection is not None:
            self.connection.close()
            self.connection = None

    def rows(self, sql):
        with self.connection.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetchall()

    def small_read(self):
        key = self.random.randrange(1, 15000)
        rows = self.rows(f"SELECT c_custkey, c_name FROM lake.bronze.customer WHERE c_custkey = {key}")
        assert rows == [(key, f"Customer#{key:09}")], rows

    def broken_off_read(self):
        with self.connection.cursor() as cursor:
            cursor.execute("SELECT * FROM lake.bronze.lineitem")
            reader = cursor.fetch_record_batch()
            for _ in range(self.random.randrange(0, 6)):
                reader.read_next_batch()
            reader.close()

    def insert(self):
        def send(table, first, count):
            with self.connection.cursor() as cursor:
                rows = f"SELECT {self.number}, {first} + i, 'row ' || i FROM range({count}) r(i)"
                cursor.execute(f"INSERT INTO soak.events.{table} SELECT * FROM ({rows})")

        self.write(send, self.random.randrange(1, 200))

    def ingest(self):
        def send(table, first, count):
            columns = {
                "client": pyarrow.array([self.number] * count, pyarrow.int32()),
                "number": pyarrow.array(range(first, first + count), pyarrow.int64()),
                "text": pyarrow.array([f"row {i}" for i in range(count)]),
            }
            with self.connection.cursor() as cursor:
                said = cursor.adbc_ingest(table, pyarrow.table(columns), mode="append", catalog_name="soak", db_schema_name="events")
            assert said == count, f"{said} rows said, {count} sent"

        self.write(send, self.random.randrange(1, 5000))

    def write(self, send, count):
        """Sends rows that nobody else sends; notes what the server said of them."""
        table, first = f"t{self.number % TABLES}", self.sequence
        self.sequence += count
        try:
            send(table, first, count)
        except adbc.Error as error:
            code = documented(error)
            if code is None:
                raise
            with self.book.lock:
                self.book.retries[code] += 1
            return
        with self.book.lock:
            self.book.acknowledged[table][self.number, first] = count

    def list(self):
        rows = self.rows("SELECT table_name FROM information_schema.tables WHERE table_schema = 'bronze' AND table_catalog = 'lake'")
        assert len(rows) == 8, rows

    def objects(self):
        found = self.connection.adbc_get_objects(depth="tables", catalog_filter="soak", db_schema_filter="events").read_all().to_pylist()
        tables = [table["table_name"] for schema in found[0]["catalog_db_schemas"] for table in schema["db_schema_tables"]]
        assert len(tables) == TABLES, tables

    def mistake(self):
        try:
            self.rows(self.random.choice(["SELECT nope FROM lake.bronze.nation", "SELECT * FROM lake.bronze.nope", "SELEC 1"]))
        except adbc.Error as error:
            assert any(word in str(error) for word in ("INVALID_ARGUMENT", "NOT_FOUND")), error
        else:
            raise AssertionError("a mistake gave no error")


def load(uri, book, seconds, clients, base):
    """All clients at once for so long."""
    until = time.monotonic() + seconds
    workers = [threading.Thread(target=Client(base + number, uri, book).run, args=[until]) for number in range(clients)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


def usage(gateway):
    """Of the gateway alone, and of its workers together."""
    own, *workers = gateway.processes()
    return {
        "workers": len(workers),
        "file handles of the gateway": handles(own),
        "threads of the gateway": threads(own),
        "file handles of the workers": sum(map(handles, workers)),
        "threads of the workers": sum(map(threads, workers)),
        "memory of the gateway, MB": pss(own) / 1e6,
        "memory of the workers, MB": sum(map(pss, workers)) / 1e6,
    }


def settled(gateway, before=None):
    """Usage when everybody has gone: after a while, or as soon as it is no higher than before."""
    until = time.monotonic() + SETTLE_SECONDS
    while True:
        time.sleep(2)
        now = usage(gateway)
        if time.monotonic() > until or before and all(now[key] <= before[key] for key in before):
            return now


def leaks(before, after):
    """What is higher than it may be. The workers' memory is only shown: DuckDB caches files in it up to its limit."""
    found = []
    for key, value in after.items():
        slack = MEMORY_SLACK / 1e6 if key.startswith("memory of the gateway") else None if key.startswith("memory") else 1 if key == "workers" else KEPT_SLACK
        if slack is not None and value > before[key] + slack:
            found.append(f"{key}: {value:.0f} after, {before[key]:.0f} before")
    return found


def check_rows(uri, book):
    """Every acknowledged row is there once, and no refused one. Gives what is wrong, and the number of rows."""
    wrong, total = [], 0
    with adbc.connect(uri, autocommit=True) as connection, connection.cursor() as cursor:
        for number in range(TABLES):
            table = f"t{number}"
            cursor.execute(f"SELECT client, number FROM soak.events.{table}")
            found = collections.Counter(zip(*(column.to_pylist() for column in cursor.fetch_arrow_table().columns)))
            expected = {(client, first + i) for (client, first), count in book.acknowledged[table].items() for i in range(count)}
            missing = len(expected - found.keys())
            twice = sum(count > 1 for count in found.values())
            surplus = len(found.keys() - expected)
            total += len(expected)
            for what, count in (("missing", missing), ("there twice", twice), ("there although refused", surplus)):
                if count:
                    wrong.append(f"{table}: {count} rows are {what}")
    return wrong, total


def run(scale):
    seconds = SECONDS * scale
    lake = demo_lake("0.1")
    book, warm = Book(), Book()
    with tempfile.TemporaryDirectory() as directory:
        settings = ["catalogs.soak.type=embedded", f"catalogs.soak.path={directory}/soak", "telemetry.level=warn", f"pool.run_dir={directory}"]
        with Gateway(lake, *settings) as gateway:
            with adbc.connect(gateway.uri, autocommit=True) as connection, connection.cursor() as cursor:
                cursor.execute("CREATE SCHEMA soak.events")
                for number in range(TABLES):
                    cursor.execute(f"CREATE TABLE soak.events.t{number} (client INTEGER, number BIGINT, text VARCHAR)")
            load(gateway.uri, warm, WARM_UP_SECONDS, CLIENTS, 1000)
            before, pids = settled(gateway), set(gateway.processes())
            load(gateway.uri, book, seconds, CLIENTS, 0)
            after = settled(gateway, before)
            lost = pids - set(gateway.processes())
            for table in warm.acknowledged:
                book.acknowledged[table] |= warm.acknowledged[table]
            wrong, rows = check_rows(gateway.uri, book)
            log = gateway.log_text()
    trouble = [line for line in log.splitlines() if "worker lost" in line or " ERROR " in line or "panicked" in line]
    unexpected = collections.Counter(warm.unexpected + book.unexpected)
    outcome = Outcome()
    outcome.check("each row of an acknowledged write is there once, and none of a refused one", "; ".join(wrong) or f"{rows:,} rows", not wrong)
    outcome.check("no failure but those to be run again", f"{unexpected.total()} others", not unexpected)
    left = leaks(before, after)
    outcome.check("nothing is left over", "; ".join(left) or "see below", not left)
    outcome.check("no worker lost, no error in the log", f"{len(lost)} lost, {len(trouble)} lines", not lost and not trouble)
    outcome.text = told(seconds, book, before, after, [f"{count} × {text}" for text, count in unexpected.most_common(20)] + trouble[:10])
    return outcome


def told(seconds, book, before, after, wrong):
    """Figures that are no threshold."""
    names = {"small_read": "a row by key", "broken_off_read": "lineitem, broken off", "insert": "INSERT … SELECT", "ingest": "ingest",
             "list": "information_schema.tables", "objects": "GetTables", "mistake": "wrong statements"}  # fmt: skip
    done = "\n".join(
        f"| {name} | {book.done[kind]:,} | {sorted(book.seconds[kind])[len(book.seconds[kind]) // 2] * 1000:.0f} ms | {max(book.seconds[kind]) * 1000:.0f} ms |"
        for kind, name in names.items()
        if book.done[kind]
    )
    left = "\n".join(f"| {key} | {before[key]:.0f} | {after[key]:.0f} |" for key in before)
    retries = ", ".join(f"{count:,} × `{code}`" for code, count in book.retries.items()) or "none"
    return f"""
{CLIENTS} clients over the stock ADBC driver for {seconds:.0f} s, in one Python process on the same cores: {sum(book.done.values()):,} operations.

| operation | times | median | longest |
|---|---|---|---|
{done}

Writes that were refused as documented, to be run again: {retries}.

| after everybody has gone | after {WARM_UP_SECONDS} s of warm-up | after the load |
|---|---|---|
{left}

{chr(10).join(f"- {text}" for text in wrong)}
"""
