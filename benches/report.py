"""Tables and plots of docs/benchmarks.md from the raw results beside it.

`report.py` writes both, `report.py --check` fails where a table differs from the results. Tables need nothing but
Python, plots need matplotlib. The same results give the same bytes.
"""

import json
import re
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benches" / "results"
DOCUMENT = ROOT / "docs" / "benchmarks.md"
PLOTS = ROOT / "docs" / "plots"
OTHER = "litestream"
OURS = "passthrough"
TITLES = {
    "plain": "plain directory",
    "litestream": "Litestream",
    "passthrough": "`passthrough`",
    "intercept": "`intercept`",
}


@dataclass(frozen=True)
class Measure:
    """One line of a table: what is taken from each measurement, in what unit, and the aim, where there is one."""

    label: str
    value: Callable[[dict], float | None]
    unit: str = ""
    # The most that our value may be of the other's, or of `against`, or by itself.
    most_ratio: float | None = None
    most: float | None = None
    against: str = OTHER


@dataclass(frozen=True)
class Table:
    """One table, and the plot beside it, from one file of results."""

    name: str
    bench: str
    sides: tuple[str, ...]
    measures: tuple[Measure, ...]
    where: tuple[tuple[str, str], ...] = ()


def requests(row, part="took", only=None):
    operations = row[part]["operations"] if part else row["operations"]
    return sum(
        told["requests"] for operation, told in operations.items() if not only or operation in only
    )


def transferred(row, direction, part="took"):
    operations = row[part]["operations"] if part else row["operations"]
    return sum(told[direction] for told in operations.values())


def held(name, scale=1.0, part="took"):
    return lambda row: row[part]["holds"] and row[part]["holds"][name] / scale


def replicated(value):
    """Of a side that replicates alone."""
    return lambda row: None if row["side"] == "plain" else value(row)


def memory(part="took"):
    return (
        Measure("memory, RSS", held("rss_kib", 1024, part), "MB"),
        Measure("memory, PSS", held("pss_kib", 1024, part), "MB"),
        Measure("descriptors", held("descriptors", part=part)),
    )


REPLICATING = ("litestream", "passthrough")
LAGS = (
    ("p50", "p50_ms"),
    ("p99", "p99_ms"),
    ("most", "most_ms"),
)


def lag_table(interval, sides, aims):
    measures = tuple(
        Measure(label, lambda row, key=key: row["lag"][key], "ms", most=aims.get(label)) for label, key in LAGS
    ) + (
        Measure("requests a commit", lambda row: requests(row) / row["commits"]),
        Measure("processor time a commit", lambda row: row["took"]["cpu_s"] * 1e6 / row["commits"], "µs"),
    )
    return Table(f"lag-{interval}", "lag", sides, measures, (("interval", interval),))


def commits_table(synchronous):
    return Table(
        f"commits-{synchronous.lower()}",
        "commits",
        ("plain", "litestream", "passthrough", "intercept"),
        (
            Measure("time of a commit", lambda row: row["us_per_commit"], "µs", most_ratio=1.25, against="plain"),
            Measure("p50", lambda row: row["commit"]["p50_ms"] * 1e3, "µs"),
            Measure("p99", lambda row: row["commit"]["p99_ms"] * 1e3, "µs"),
            Measure("the application's processor time a commit", lambda row: row["application_cpu_s"] * 1e6 / row["commits"], "µs"),
            Measure("processor time of what replicates, a commit", replicated(lambda row: row["took"]["cpu_s"] * 1e6 / row["commits"]), "µs"),
            Measure("the log's largest size", lambda row: row["log_bytes"] / 1e6, "MB", against="plain"),
        ),
        (("synchronous", synchronous),),
    )


def detect_table(interval):
    measures = tuple(
        Measure(label, lambda row, key=key: row["stored_after"][key], "ms") for label, key in LAGS
    )
    return Table(f"detect-{interval}", "detect", REPLICATING, measures, (("interval", interval),))


TABLES = (
    Table(
        "cpu",
        "cpu",
        ("plain", "litestream", "passthrough", "intercept"),
        (
            Measure("commits a second", lambda row: row["transactions"] / row["took"]["seconds"]),
            Measure(
                "processor time a transaction, of what replicates",
                replicated(lambda row: row["took"]["cpu_s"] * 1e6 / row["transactions"]),
                "µs",
                most_ratio=0.1,
            ),
            Measure(
                "processor time a transaction, of the application",
                lambda row: row["application_cpu_s"] * 1e6 / row["transactions"],
                "µs",
            ),
            Measure("a commit, p99", lambda row: row["commit"]["p99_ms"], "ms"),
            Measure("PUTs a transaction", replicated(lambda row: requests(row, only=("PutObject",)) / row["transactions"])),
            Measure("all requests a transaction", replicated(lambda row: requests(row) / row["transactions"])),
            Measure("bytes to the store a transaction", replicated(lambda row: transferred(row, "to_store") / row["transactions"]), "B"),
            Measure("all is stored, after the last commit", replicated(lambda row: row["all_stored_after_ms"]), "ms"),
        )
        + memory(),
    ),
    Table(
        "idle",
        "idle",
        REPLICATING,
        (
            Measure("memory, RSS", held("rss_kib", 1024), "MB", most_ratio=0.1),
            Measure("memory, PSS", held("pss_kib", 1024), "MB", most_ratio=0.1),
            Measure("descriptors", held("descriptors"), most=100),
            Measure("threads", held("threads")),
            Measure("requests a minute", lambda row: requests(row) * 60 / row["took"]["seconds"], most=0),
            Measure("processor time a minute", lambda row: row["took"]["cpu_s"] * 6e4 / row["took"]["seconds"], "ms"),
        ),
    ),
    lag_table("10ms", ("litestream", "passthrough", "intercept"), {"p50": 20, "p99": 100}),
    lag_table("1s", REPLICATING, {}),
    commits_table("NORMAL"),
    commits_table("FULL"),
    detect_table("1s"),
    detect_table("10ms"),
    Table(
        "restore",
        "restore",
        REPLICATING,
        (
            Measure("time", lambda row: row["ms"], "ms"),
            Measure("requests", lambda row: requests(row, None)),
            Measure("of these GETs", lambda row: requests(row, None, ("GetObject",))),
            Measure("bytes from the store", lambda row: transferred(row, "from_store", None) / 1e6, "MB"),
        ),
    ),
    Table(
        "outage",
        "outage",
        REPLICATING,
        (
            Measure("caught up after", lambda row: row["caught_up_after_ms"], "ms"),
            Measure("requests for that", lambda row: requests(row, "catching_up")),
            Measure("requests a minute while it is down", lambda row: requests(row, "down") * 60 / row["down"]["seconds"]),
            Measure("processor time while it is down, a minute", lambda row: row["down"]["cpu_s"] * 60 / row["down"]["seconds"], "s"),
            Measure("logs at its end", lambda row: row["log_bytes"] / 1e6, "MB"),
        )
        + memory("down"),
    ),
)


def measurements(bench):
    """The machine, and the measurements that a file of results has."""
    lines = (RESULTS / f"{bench}.jsonl").read_text().splitlines()
    machine, *rows = [json.loads(line) for line in lines]
    return machine, rows


def by_round(table, side, value):
    """What a measure is in each round of one side."""
    _, rows = measurements(table.bench)
    matching = (row for row in rows if row["side"] == side and all(row[key] == of for key, of in table.where))
    values = {row["round"]: value(row) for row in matching}
    return {number: found for number, found in values.items() if found is not None}


def ratios(table, measure, side=OURS):
    """Ours to the other's, each taken within its round; none where the other's is zero."""
    ours, others = (by_round(table, of, measure.value) for of in (side, measure.against))
    return [ours[number] / others[number] for number in ours if others.get(number)]


def number(value):
    if abs(value) >= 100 or value == int(value):
        return f"{value:,.0f}"
    if abs(value) < 0.1:
        return f"{value:.2g}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def spread(values, unit=""):
    """The median, and the least and the most where they differ as they are written."""
    if not values:
        return ""
    told = [number(value) for value in (statistics.median(values), min(values), max(values))]
    unit = f" {unit}" if unit else ""
    return f"{told[0]}{unit}" if told[1] == told[2] else f"{told[0]}{unit} ({told[1]} to {told[2]})"


def verdict(table, measure):
    if measure.most_ratio is not None:
        middle, most = statistics.median(ratios(table, measure)), measure.most_ratio
        told = f"ratio ≤ {most:g}"
    elif measure.most is not None:
        middle, most = statistics.median(by_round(table, OURS, measure.value).values()), measure.most
        told = f"≤ {most:g} {measure.unit}".rstrip()
    else:
        return ""
    return f"{told}: met" if middle <= most else f"{told}: **missed**"


def as_markdown(table):
    machine, _ = measurements(table.bench)
    against = sorted({measure.against for measure in table.measures})
    titles = [TITLES[side] for side in table.sides]
    rounds = len(by_round(table, OURS, table.measures[0].value))
    heads = [*titles, "ratio", "aim"]
    lines = [
        f"{machine['processors']} processors, Linux {machine['kernel']}, load before {machine['load_before']}; "
        f"{'one round' if rounds == 1 else f'median (least to most) of {rounds} rounds'}; "
        f"the ratio is {TITLES[OURS]} to {' or '.join(TITLES[side] for side in against)}, within a round.",
        "",
        f"| | {' | '.join(heads)} |",
        f"|{' --- |' * (len(heads) + 1)}",
    ]
    for measure in table.measures:
        cells = [spread(list(by_round(table, side, measure.value).values()), measure.unit) for side in table.sides]
        ratio = spread(ratios(table, measure))
        if ratio and len(against) > 1 and measure.against != OTHER:
            ratio += " of plain"
        cells += [ratio, verdict(table, measure)]
        lines.append(f"| {measure.label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def with_tables(document):
    """The document with each table as the results say, between its markers."""
    for table in TABLES:
        begin, end = f"<!-- table {table.name} -->\n", f"\n<!-- end {table.name} -->"
        pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
        if not pattern.search(document):
            sys.exit(f"{DOCUMENT.name} has no place for the table {table.name}: add its two markers")
        document = pattern.sub(lambda _: begin + as_markdown(table) + end, document)
    return document


def main():
    written = DOCUMENT.read_text()
    made = with_tables(written)
    if sys.argv[1:] == ["--check"]:
        if made != written:
            sys.exit(f"{DOCUMENT.name} differs from benches/results: run benches/report.py")
        return
    if sys.argv[1:]:
        sys.exit("usage: report.py [--check]")
    DOCUMENT.write_text(made)
    from plots import draw

    draw(TABLES, by_round, PLOTS)


if __name__ == "__main__":
    main()
