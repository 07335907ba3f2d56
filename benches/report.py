"""Turns what `make bench` measured into a page that a reader understands: goals first, then tables and plots. Owns the goals and the
names of what is compared; measures nothing."""

import statistics

import remote

OURS, BEFORE = "gateway", "gateway before"
ONE_PROCESS, FROM_MEMORY, ALONE, ATTACHED = "one process", "from memory", "DuckDB alone", "DuckDB attached"

EXPLAINED = f"""
- *{OURS}*: this tree, as shipped: gateway, worker process, relay; the client asks GetFlightInfo, then DoGet.
- *{ONE_PROCESS}*: DuckDB and a plain Flight server in one process, made of the arrow-flight crate's own encoder and tonic; no guard, no catalog, no worker. What the hop costs is the distance to it.
- *{FROM_MEMORY}*: the same plain server gives the gateway's own messages from memory. No query runs: what gRPC carries on this machine.
- *{ALONE}*: DuckDB in the measuring process, up to Arrow batches that are dropped. No server that reads these files by this DuckDB can be faster.
- *{ATTACHED}*: DuckDB in the measuring process with the REST catalog attached by itself.
- *{BEFORE}*: another binary, given by `--against`.

All read the same Parquet files with the same DuckDB and extensions, by two threads. The client is arrow-flight's own, on the same cores, and decodes every batch."""


def middle(runs, key):
    return statistics.median(run[key] for run in runs)


def rate(runs):
    """Megabytes of Arrow a second, by the bytes on the wire of the first run."""
    return middle(runs, "bytes") / 1e6 / middle(runs, "total")


def ratio(found, shape, way, other, key):
    """The median over the runs of one way's figure to another's; runs that were made next to each other are compared."""
    return statistics.median(a[key] / b[key] for a, b in zip(found["streams"][shape][way], found["streams"][shape][other]))


def goals(found):
    """(what is wanted, what was measured, whether it holds)."""
    idle, peak = found["memory"]
    attached = found["rest"]["lineitem"]
    first = (middle(attached[OURS], "first") - middle(attached[ATTACHED], "first")) * 1000
    one, sixteen = found["small"][1][OURS], found["small"][16][OURS]
    cpu, wall = (ratio(found, "wide", OURS, ONE_PROCESS, key) for key in ("server_cpu", "total"))
    eight = ratio(found, "eight", OURS, ONE_PROCESS, "total")
    computed = ratio(found, "computed", FROM_MEMORY, OURS, "total")
    wide = ratio(found, "wide", FROM_MEMORY, OURS, "total")
    return [
        ("the hop costs at most 5 % CPU of the same stream in one process", f"{cpu:.2f} of it", cpu <= 1.05),
        ("… and at most 15 % wall time", f"{wall:.2f} of it", wall <= 1.15),
        ("eight streams at once lose nothing to one process (within 5 %)", f"{eight:.2f} of its time", eight <= 1.05),
        ("a stream comes at 0.75 of the rate from memory: all of lineitem", f"{wide:.2f}", wide >= 0.75),
        ("the same, of rows that cost DuckDB little", f"{computed:.2f}", computed >= 0.75),
        ("`SELECT 1`, one client: median under 0.8 ms", f"{one['p50']:.2f} ms", one["p50"] < 0.8),
        ("`SELECT 1`, 16 clients: 2,000 a second", f"{sixteen['per_second']:,.0f} a second", sixteen["per_second"] >= 2000),
        ("gateway and workers together under 400 MB above idle", f"{(peak - idle) / 1e6:.0f} MB above {idle / 1e6:.0f} MB", peak - idle < 400e6),
        ("first batch within 150 ms of DuckDB that attaches the catalog itself", f"{first:+.0f} ms", first < 150),
        *far_goals(found["remote"]),
    ]


def far(runs, kind):
    """The gateway's time to that of DuckDB, the median over the runs."""
    return statistics.median(run[remote.OURS][kind] / run[remote.DIRECT][kind] for run in runs)


def far_goals(found):
    """Those about a catalog and a store behind a network. A scan is not waited for but worked at: again, it takes as long by any way."""
    cold = max(far(runs, kind) for runs in found.values() for kind in (remote.FIRST, remote.OTHER))
    warm = max(far(found[name], remote.WARM) for name in (remote.SMALL, remote.GROUPED, remote.JOIN))
    return [
        ("a far catalog, cold: at most 1.1 of DuckDB that attaches it itself, whatever the query", f"{cold:.2f} of its time", cold <= 1.1),
        ("the same query again, unless it is a large scan: less than 0.5", f"{warm:.2f} of its time", warm < 0.5),
    ]


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def stream_table(ways):
    return table(
        ["", "whole stream", "rate", "first batch", "CPU of the server", "CPU of the client"],
        [
            [
                way,
                f"{middle(runs, 'total'):.2f} s (best {min(run['total'] for run in runs):.2f})",
                f"{rate(runs):,.0f} MB/s",
                f"{middle(runs, 'first') * 1000:.0f} ms",
                f"{middle(runs, 'server_cpu'):.2f} s" if middle(runs, "server_cpu") else "–",
                f"{middle(runs, 'client_cpu'):.2f} s",
            ]
            for way, runs in ways.items()
        ],
    )


def plot(title, unit, bars):
    """A bar chart in Mermaid, which the hosts of Git repositories draw and which reads as text elsewhere."""
    names = ", ".join(f'"{name}"' for name in bars)
    values = ", ".join(f"{value:.3g}" for value in bars.values())
    return f'```mermaid\nxychart-beta\n    title "{title}"\n    x-axis [{names}]\n    y-axis "{unit}" 0 --> {max(bars.values()) * 1.1:.3g}\n    bar [{values}]\n```'


def small_table(found):
    rows = []
    for clients, gateways in [*found["small"].items(), ("1, all 25 rows of nation", found["nation"])]:
        for who, one in gateways.items():
            info = "–" if who == ONE_PROCESS else f"{one['info_p50']:.2f} ms"
            rows.append([str(clients), who, info, f"{one['p50']:.2f} ms", f"{one['p99']:.2f} ms", f"{one['per_second']:,.0f}"])
    return table(["clients", "", "GetFlightInfo, median", "with DoGet, median", "99th percentile", "a second"], rows)


def stream_sections(found):
    texts = {
        "wide": ("All of lineitem", "`SELECT * FROM lineitem`: 16 columns, 2,048 rows a message."),
        "narrow": ("One column of lineitem", "`SELECT l_orderkey FROM lineitem`: small chunks, gathered to 512 KB a message."),
        "computed": ("Rows that cost little", "Eight numbers a row, computed and not read: how much of what gRPC carries is reached when DuckDB is not the limit."),
        "eight": ("Eight streams at once", "Lineitem in eight parts by order key, each on its own connection."),
    }
    for shape, (title, text) in texts.items():
        ways = found["streams"][shape]
        rates = {way: rate(runs) for way, runs in ways.items() if way != FROM_MEMORY or shape == "computed"}
        yield f"## {title}\n\n{text} {middle(ways[OURS], 'rows'):,.0f} rows, {middle(ways[OURS], 'bytes') / 1e6:,.0f} MB of Arrow.\n\n{stream_table(ways)}\n\n{plot(title, 'MB/s', rates)}"


def rest_section(found):
    nation = found["rest"]["nation"]
    rows = [[way, f"{middle(runs, 'total') * 1000:.1f} ms", f"{middle(runs, 'first') * 1000:.1f} ms"] for way, runs in nation.items()]
    return f"""## Before a REST catalog

The same tables in Iceberg's reference REST catalog, on the same machine.

{stream_table(found["rest"]["lineitem"])}

All 25 rows of nation, {len(nation[OURS])} times by turns; each on a new connection:

{table(["", "median", "first batch"], rows)}"""


def remote_section(found):
    rows, middles = [], lambda runs, way, kind: statistics.median(run[way][kind] for run in runs)
    kinds = {remote.FIRST: "the first of all", remote.OTHER: "the first of these tables", remote.WARM: "the same again"}
    for name, runs in found.items():
        for kind, said in kinds.items():
            times = [f"{middles(runs, way, kind) * 1000:.1f} ms" for way in (remote.OURS, remote.DIRECT)]
            rows.append([name, said, *times, f"{far(runs, kind):.2f}"])
    door = middles(found[remote.SCAN], remote.OURS, "door")
    return f"""## A catalog and a store behind a network

A stand-in for Polaris that answers each call {remote.DELAY_MS} ms late and vends keys with its tables, which lie in a MinIO. The gateway's workers reach the store through the gateway, which signs and checks. *{remote.DIRECT}*: DuckDB in the measuring process, with the catalog's own client id and secret and the keys that it vends; each query is one transaction.

- *{kinds[remote.FIRST]}*: both have just started, with extensions loaded and nothing known. Counted are the token, the catalog's configuration (DuckDB's ATTACH; the gateway asks for them while a worker attaches), the table, its manifests and its data, to the last row; the gateway's client is connected.
- *{kinds[remote.OTHER]}*: the catalog is attached and was asked for other tables before.
- *{kinds[remote.WARM]}*: both have the data files in memory. DuckDB asks the catalog for each table in each transaction, the gateway once in `relay.max_staleness` (1 s), all tables of a statement at once.

{table(["query", "", remote.OURS, remote.DIRECT, "ratio"], rows)}

The gateway's own process, with the door to the store in it, took {door:.2f} s of CPU for the scan of a table that it had not seen."""


def report(found):
    """Title and body of the page, and the goals that were missed."""
    held = goals(found)
    driver = found["driver"]
    rows = [[goal, measured, "held" if holds else "**missed**"] for goal, measured, holds in held]
    latencies = {f"{clients} clients": gateways[OURS]["per_second"] for clients, gateways in found["small"].items()}
    body = f"""
TPC-H at scale {found["scale"]:g}; medians of {found["runs"]} runs of each way, by turns, after one that warms up. Ratios compare runs that were made next to each other.

{table(["goal", "measured", ""], rows)}

The stream of lineitem is bounded by DuckDB's reading of Parquet: alone, without any server, it comes at {rate(found["streams"]["wide"][ALONE]) / rate(found["streams"]["wide"][FROM_MEMORY]):.2f} of the rate from memory, and the gateway at {rate(found["streams"]["wide"][OURS]) / rate(found["streams"]["wide"][ALONE]):.2f} of that.

What is compared:
{EXPLAINED}

{chr(10).join(section + chr(10) for section in stream_sections(found))}
## Small statements

`SELECT 1` over and over, each client on a connection of its own; GetFlightInfo and DoGet. The one process has no GetFlightInfo: its figures are those of DoGet alone, without a guard, a login or a log.

{small_table(found)}

By the stock ADBC driver for Python, one client, four calls each (prepare, GetFlightInfo, DoGet, close): median {statistics.median(driver):.2f} ms.

{plot("SELECT 1", "statements a second", latencies)}

{rest_section(found)}

{remote_section(found["remote"])}

Memory is the proportional set size of gateway and workers, every 20 ms in {found["runs"]} further runs of the wide stream; the highest counts."""
    return "What the walls cost", body, [goal for goal, _, holds in held if not holds]
