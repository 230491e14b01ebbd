"""The figures of compare.py as Markdown tables on the standard output, and the ratios as a plot.

    python draw.py FIGURES.json… PLOT.svg

One bar for each peer and stage: its median over that of Pentimento in the same run and precision (in its fastest one where
the run has none of the peer's), so right of the line at 1 Pentimento is faster. Needs Python's standard library alone.
"""

import json
import pathlib
import statistics
import sys
from xml.sax.saxutils import escape

OURS = "pentimento"
LABEL, WIDTH, ROW, MARGIN = 210, 440, 22, 30
COLOURS = ["#30638e", "#d1495b", "#7a9e7e", "#edae49", "#6d597a", "#8d99ae"]


def medians_of(figures):
    """Stage -> program -> median of its seconds."""
    return {
        stage: {name: statistics.median(seconds) for name, seconds in programs.items()}
        for stage, programs in figures["stages"].items()
    }


def stage_table(medians):
    names = list(next(iter(medians.values())))
    ours = [name for name in names if name.startswith(OURS)]
    lines = ["| stage | program | median | " + " | ".join(f"over {name}" for name in ours) + " |"]
    lines.append("|---" * (3 + len(ours)) + "|")
    for stage, programs in medians.items():
        for name, median in programs.items():
            ratios = " | ".join(f"{median / programs[one]:.2f}" for one in ours)
            lines.append(f"| {stage} | {name} | {median:.3f} s | {ratios} |")
    return "\n".join(lines)


def program_table(figures):
    lines = ["| program | peak memory | error of a UNet call |", "|---|---|---|"]
    for name, peak in figures["peak_bytes"].items():
        error = figures["errors"].get(name)
        told = "not measured" if error is None else f"{error:.1e}"
        lines.append(f"| {name} | {peak / 2**30:.2f} GiB | {told} |")
    return "\n".join(lines)


def bars_of(medians):
    """(stage, peer, ratio), stage by stage."""
    for stage, programs in medians.items():
        fastest = min(median for name, median in programs.items() if name.startswith(OURS))
        for name, median in programs.items():
            if not name.startswith(OURS):
                alike = f"{OURS}-{name.rpartition('-')[2]}"
                yield stage, name, median / programs.get(alike, fastest)


def plot(bars):
    peers = sorted({peer for _, peer, _ in bars})
    longest = max([ratio for _, _, ratio in bars] + [1.0])
    scale, height = WIDTH / longest, MARGIN * 2 + ROW * len(bars)
    one = LABEL + scale
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{LABEL + WIDTH + 60}" height="{height}"'
        ' font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
        '<text x="10" y="18" font-weight="bold">Seconds of each peer over those of Pentimento</text>',
    ]
    for row, (stage, peer, ratio) in enumerate(bars):
        top = MARGIN + ROW * row
        colour = COLOURS[peers.index(peer) % len(COLOURS)]
        parts += [
            f'<text x="{LABEL - 8}" y="{top + 15}" text-anchor="end">{escape(stage)}, {escape(peer)}</text>',
            f'<rect x="{LABEL}" y="{top + 3}" width="{ratio * scale:.1f}" height="{ROW - 6}" fill="{colour}"/>',
            f'<text x="{LABEL + ratio * scale + 5:.1f}" y="{top + 15}">{ratio:.2f}</text>',
        ]
    parts += [
        f'<line x1="{one:.1f}" x2="{one:.1f}" y1="{MARGIN}" y2="{height - MARGIN}" stroke="black" stroke-dasharray="3"/>',
        f'<text x="{one:.1f}" y="{height - 12}" text-anchor="middle">1: equally fast</text>',
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def main(sources, goal):
    bars = []
    for source in sources:
        figures = json.loads(source.read_text())
        medians = medians_of(figures)
        print(stage_table(medians), program_table(figures), sep="\n\n", end="\n\n")
        bars += bars_of(medians)
    if not bars:
        sys.exit("no peer in these figures: nothing to plot")
    goal.write_text(plot(bars))


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    *sources, goal = map(pathlib.Path, sys.argv[1:])
    main(sources, goal)
