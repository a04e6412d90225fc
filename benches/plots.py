"""Plots of docs/benchmarks.md: one row of bars a table, a bar for each side, with the least and the most of its rounds."""

import statistics

import matplotlib

matplotlib.use("svg")
matplotlib.rcParams["svg.hashsalt"] = "litestream-multitenant"
matplotlib.rcParams["font.size"] = 8

from matplotlib import pyplot  # noqa: E402  (the settings come before it)

COLOURS = {"plain": "#9aa0a6", "litestream": "#d98c3f", "passthrough": "#2f6db3", "intercept": "#85b4e0"}
COLUMNS = 4


def draw(tables, by_round, directory):
    directory.mkdir(parents=True, exist_ok=True)
    for table in tables:
        count = len(table.measures)
        rows = -(-count // COLUMNS)
        figure, all_axes = pyplot.subplots(rows, COLUMNS, figsize=(10, 2.2 * rows), squeeze=False)
        axes = [one for row in all_axes for one in row]
        for one, measure in zip(axes, table.measures):
            bars(one, table, measure, by_round)
        for one in axes[count:]:
            one.set_axis_off()
        figure.tight_layout()
        figure.savefig(directory / f"{table.name}.svg", metadata={"Date": None})
        pyplot.close(figure)


def bars(axes, table, measure, by_round):
    """One measure of every side that has it."""
    values = {side: list(by_round(table, side, measure.value).values()) for side in table.sides}
    values = {side: found for side, found in values.items() if found}
    middles = [statistics.median(found) for found in values.values()]
    below = [middle - min(found) for middle, found in zip(middles, values.values())]
    above = [max(found) - middle for middle, found in zip(middles, values.values())]
    axes.barh(list(values), middles, xerr=[below, above], color=[COLOURS[side] for side in values], ecolor="#444444", capsize=2)
    axes.invert_yaxis()
    positive = [middle for middle in middles if middle > 0]
    if positive and max(positive) > 20 * min(positive):
        axes.set_xscale("log")
    axes.set_title(f"{measure.label} [{measure.unit}]" if measure.unit else measure.label, fontsize=7)
