"""Reads the Prometheus text on standard input with Prometheus' own parser; prints its families as JSON."""

import json
import sys

from prometheus_client.parser import text_string_to_metric_families

text = sys.stdin.read()
names = {line.split("{")[0].split(" ")[0] for line in text.splitlines()}


def name_in_text(name):
    """The parser puts _total to the name of every counter."""
    return name if name in names else name.removesuffix("_total")


families = {}
for family in text_string_to_metric_families(text):
    assert family.type != "unknown", f"{family.name} has no type"
    assert family.documentation, f"{family.name} has no help"
    seen = set()
    for sample in family.samples:
        series = (sample.name, tuple(sorted(sample.labels.items())))
        assert series not in seen, f"{series} stands twice"
        seen.add(series)
    families[family.name] = {
        "type": family.type,
        "samples": [
            [name_in_text(s.name), s.labels, s.value] for s in family.samples
        ],
    }
json.dump(families, sys.stdout)
