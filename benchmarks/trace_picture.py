#!/usr/bin/env python3
"""Draws one attention call of a trace (`ringwise ... --trace FILE`) as SVG: for each rank a row of
what it computes and waits for, and under it what travels meanwhile.

    benchmarks/trace_picture.py trace.json picture.svg [--call backward] [--last 3] [--title TEXT]

Needs nothing but Python. Prints for each rank the share of the call that it computes, waits, and
has a transfer under way, and how much of the transfers is under compute.
"""

import argparse
import html
import json
import math

WIDTH, LEFT, RIGHT, TOP = 920, 84, 16, 34
BAR, LANE, GAP, BETWEEN_RANKS = 26, 11, 3, 16
COLOURS = {
    "compute": "#4c78a8", "other": "#9ab6d3", "wait": "#f0a04b", "send": "#59a14f",
    "receive": "#8e6bb0",
}
LEGEND = [
    ("compute", "attends to a block"), ("other", "packs, finishes"), ("wait", "waits"),
    ("send", "sends"), ("receive", "receives"),
]


class Call:
    """One attention call, the last for `index` -1: its spans by rank, in milliseconds since it
    began."""

    def __init__(self, events, direction, index):
        rows = {
            (event["pid"], event["tid"]): event["args"]["name"]
            for event in events
            if event["ph"] == "M" and event["name"] == "thread_name"
        }
        spans = [event for event in events if event["ph"] == "X"]
        calls = {}
        for span in sorted(spans, key=lambda span: span["ts"]):
            if span["cat"] == "phase" and span["name"] == f"attention {direction}":
                calls.setdefault(span["pid"], []).append(span)
        if not calls:
            raise SystemExit(f"the trace has no 'attention {direction}'")
        if min(map(len, calls.values())) < -index:
            raise SystemExit(f"the trace has fewer than {-index} calls of attention {direction}")
        windows = {rank: found[index] for rank, found in calls.items()}
        self.origin = min(window["ts"] for window in windows.values())
        last = max(window["ts"] + window["dur"] for window in windows.values())
        self.length = (last - self.origin) / 1e3
        self.steps = {
            rank: [
                (span["name"].removeprefix("ring "), *self.shown(span))
                for span in spans
                if span["pid"] == rank and span["cat"] == "phase"
                and span["name"].startswith("ring step")
                and window["ts"] <= span["ts"] <= window["ts"] + window["dur"]
            ]
            for rank, window in windows.items()
        }
        self.ranks = {
            rank: [
                (rows[rank, span["tid"]], span, *self.shown(span))
                for span in spans
                if span["pid"] == rank and span["cat"] != "phase"
                and window["ts"] <= span["ts"] <= window["ts"] + window["dur"]
            ]
            for rank, window in sorted(windows.items())
        }

    def shown(self, span):
        begin = (span["ts"] - self.origin) / 1e3
        return begin, begin + span["dur"] / 1e3

    def step_at(self, rank, time):
        """The name of the ring step that was under way."""
        return next(name for name, begin, end in self.steps[rank] if begin <= time <= end)

    def of(self, rank, *categories):
        """(row, span, begin, end) of the rank's own thread, or of its transfers."""
        return [
            item
            for item in self.ranks[rank]
            if item[1]["cat"] in categories
            and (item[1]["cat"] in ("send", "receive") or item[0] == "thread 0")
        ]


def covered(intervals):
    """The union of the intervals, as disjoint ones in order."""
    union = []
    for begin, end in sorted(intervals):
        if union and begin <= union[-1][1]:
            union[-1][1] = max(union[-1][1], end)
        else:
            union.append([begin, end])
    return union


def length(intervals):
    return sum(end - begin for begin, end in intervals)


def overlap(a, b):
    return sum(max(0.0, min(x[1], y[1]) - max(x[0], y[0])) for x in a for y in b)


def report(call):
    for rank in call.ranks:
        compute = covered(item[2:] for item in call.of(rank, "compute"))
        wait = covered(item[2:] for item in call.of(rank, "wait"))
        travel = covered(item[2:] for item in call.of(rank, "send", "receive"))
        hidden = overlap(compute, travel) / length(travel) if travel else 1
        print(
            f"rank {rank}: computes {length(compute) / call.length:.1%} of {call.length:.1f} ms, "
            f"waits {length(wait) / call.length:.1%}, "
            f"transfers {length(travel) / call.length:.1%}, {hidden:.1%} of them under compute"
        )


class Picture:
    def __init__(self, call, title):
        self.call = call
        self.scale = (WIDTH - LEFT - RIGHT) / call.length
        self.parts = []
        self.text(LEFT, 18, title, "font-weight='bold'")
        self.y = TOP
        for rank in call.ranks:
            self.add_rank(rank)
        self.add_axis()
        self.add_legend()

    def text(self, x, y, words, style=""):
        self.parts.append(f"<text x='{x:.1f}' y='{y:.1f}' {style}>{html.escape(words)}</text>")

    def bar(self, item, top, height, colour, label=""):
        _, span, begin, end = item
        x, width = LEFT + begin * self.scale, (end - begin) * self.scale
        if width < 0.2:
            return
        tip = f"{span['name']}: {end - begin:.3f} ms"
        if "bytes" in span["args"]:
            tip += f", {span['args']['bytes'] / 1e6:.2f} MB"
        self.parts.append(
            f"<rect x='{x:.1f}' y='{top}' width='{width:.1f}' height='{height}' "
            f"fill='{COLOURS[colour]}' stroke='white' stroke-width='.8'><title>{html.escape(tip)}</title></rect>"
        )
        if label and width > 6.5 * len(label):
            self.text(
                x + width / 2, top + height / 2 + 4, label, "text-anchor='middle' fill='white'"
            )

    def add_rank(self, rank):
        self.text(8, self.y + BAR / 2 + 4, f"rank {rank}", "font-weight='bold'")
        for item in self.call.of(rank, "compute"):
            span = item[1]
            attends = "block" in span["args"] and span["name"].split()[0] in ("forward", "backward")
            label = ""
            if attends:
                label = f"{self.call.step_at(rank, item[2])}: block {span['args']['block']}"
            main = attends or span["name"] == "at home"
            self.bar(item, self.y, BAR, "compute" if main else "other", label)
        for item in self.call.of(rank, "wait"):
            self.bar(item, self.y, BAR, "wait")
        self.y += BAR + GAP
        for direction in ("send", "receive"):
            items = self.call.of(rank, direction)
            for row in sorted({item[0] for item in items}) or [direction]:
                self.text(LEFT - 8, self.y + LANE - 2, row, "text-anchor='end' fill='#555'")
                for item in items:
                    if item[0] == row:
                        self.bar(item, self.y, LANE, direction)
                self.y += LANE + GAP
        self.y += BETWEEN_RANKS

    def add_axis(self):
        rough = self.call.length / 8
        power = 10 ** math.floor(math.log10(rough))
        step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
        top, bottom = TOP - 6, self.y - BETWEEN_RANKS + 4
        lines = []
        for index in range(int(self.call.length / step) + 1):
            x = LEFT + index * step * self.scale
            lines.append(f"<path d='M{x:.1f} {top}V{bottom}' stroke='#ddd'/>")
            self.text(x, bottom + 14, f"{index * step:g}", "text-anchor='middle' fill='#555'")
        self.parts[:0] = lines  # under the bars
        self.text(WIDTH - RIGHT, bottom + 28, "milliseconds", "text-anchor='end' fill='#555'")
        self.y = bottom + 18

    def add_legend(self):
        x = LEFT
        for colour, words in LEGEND:
            self.parts.append(
                f"<rect x='{x}' y='{self.y + 2}' width='11' height='11' fill='{COLOURS[colour]}'/>"
            )
            self.text(x + 16, self.y + 12, words)
            x += 34 + 6.2 * len(words)
        self.y += 22

    def svg(self):
        return (
            f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {self.y}' "
            "font-family='sans-serif' font-size='12'>\n"
            f"<rect width='{WIDTH}' height='{self.y}' fill='white'/>\n"
            + "\n".join(self.parts) + "\n</svg>\n"
        )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("trace", help="file that --trace wrote")
    parser.add_argument("picture", help="SVG file to write")
    parser.add_argument("--call", choices=("forward", "backward"), default="forward")
    parser.add_argument(
        "--last", type=int, default=1, metavar="N",
        help="draw the fastest of the last N calls; default %(default)s",
    )
    parser.add_argument("--title", default="")
    options = parser.parse_args()
    with open(options.trace, encoding="utf-8") as file:
        events = json.load(file)["traceEvents"]
    calls = [Call(events, options.call, -number) for number in range(1, options.last + 1)]
    call = min(calls, key=lambda call: call.length)
    report(call)
    with open(options.picture, "w", encoding="utf-8") as file:
        file.write(Picture(call, options.title).svg())


if __name__ == "__main__":
    main()
