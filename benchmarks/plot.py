"""The plot in docs/: drawn by Matplotlib, which lives with the peers in `.venv-bench`.

`.venv-bench/bin/python -m benchmarks.plot RESULTS.json OUT.svg`
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

# Mid-tones on a transparent ground: GitHub shows the file on white and on near-black.
TEXT, GRID, OURS, OTHERS, THIRD = "#7d8590", "#7d859055", "#e8710a", "#4c8dd6", "#8f7ee0"


def draw(results: Path, out: Path) -> str | None:
    """Draw in the peers' environment; says why not if that cannot be done."""
    from benchmarks.environment import MISSING, PEERS_PYTHON, installed
    from sandbox.service import PROJECT

    if not installed():
        return MISSING
    command = [str(PEERS_PYTHON), "-m", "benchmarks.plot", str(results), str(out)]
    ended = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    return ended.stderr.strip().splitlines()[-1] if ended.returncode else None


def main(results: str, out: str) -> None:
    """Four panels of one run."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    mpl.rcParams.update(
        {
            "svg.hashsalt": "benchmarks",
            "font.size": 9,
            "text.color": TEXT,
            "axes.labelcolor": TEXT,
            "axes.edgecolor": GRID,
            "axes.titlecolor": TEXT,
            "axes.titlesize": 10,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "xtick.color": TEXT,
            "ytick.color": TEXT,
            "grid.color": GRID,
            "legend.frameon": False,
        }
    )
    measured = json.loads(Path(results).read_text(encoding="utf-8"))
    figure, axes = pyplot.subplots(2, 2, figsize=(11, 8), layout="constrained")
    panels = ((_overhead, "overhead"), (_slots, "inflight"), (_latency, "latency"))
    for (panel, part), axis in zip((*panels, (_scale, "scale")), axes.flat, strict=True):
        if part in measured:
            panel(axis, measured[part])
            axis.set_axisbelow(True)
        else:
            axis.set_visible(False)
    figure.savefig(out, transparent=True, metadata={"Date": None})


def _bars(axis: Any, rows: list[tuple[str, float, float]], form: str) -> None:
    """Rows of a name, a value and where its label goes."""
    rows = rows[::-1]
    colours = [OURS if name.startswith("claude-jobs") else OTHERS for name, *_ in rows]
    axis.barh([name for name, _, _ in rows], [value for _, value, _ in rows], color=colours)
    for index, (_, value, end) in enumerate(rows):
        axis.annotate(
            form.format(value),
            (end, index),
            xytext=(5, -3),
            textcoords="offset points",
        )
    axis.margins(x=0.14)
    axis.grid(axis="x")


def _overhead(axis: Any, result: dict[str, Any]) -> None:
    used = {name: [run["worker_ms"] for run in runs] for name, runs in result["raw"].items()}
    rows = [(name, row["worker_ms"], max(used[name])) for name, row in result["contenders"].items()]
    rows.sort(key=lambda row: row[1])
    _bars(axis, rows, "{:.1f}")
    for index, (name, *_) in enumerate(rows[::-1]):
        axis.plot([min(used[name]), max(used[name])], [index, index], color=TEXT, linewidth=1)
    axis.set_title("Worker CPU a job, ms: median and range")


def _slots(axis: Any, result: dict[str, Any]) -> None:
    case = result["cases"][-1]
    rows = [(name, row["per_gib"], row["per_gib"]) for name, row in case["contenders"].items()]
    _bars(axis, sorted(rows, key=lambda row: -row[1]), "{:,.0f}")
    axis.set_title(f"Calls of {case['latency']:g} s in flight per GiB of a worker")


def _latency(axis: Any, result: dict[str, Any]) -> None:
    labels = []
    for case in result["cases"][::-1]:
        load = "idle" if case["load"] == "idle" else "half load"
        for name, row in list(case["contenders"].items())[::-1]:
            colour = OURS if name == "claude-jobs" else OTHERS
            index = len(labels)
            axis.plot([row["p50_ms"], row["p99_ms"]], [index, index], color=colour, linewidth=2)
            axis.plot([row["p50_ms"]], [index], "o", color=colour)
            axis.plot([row["p99_ms"]], [index], "|", color=colour, markersize=12)
            axis.annotate(
                f"{row['p50_ms']:.0f} – {row['p99_ms']:.0f}",
                (row["p99_ms"], index),
                xytext=(8, -3),
                textcoords="offset points",
                color=TEXT,
            )
            labels.append(f"{name}, {load}, +{case['injected_ms']:g} ms")
    axis.set_yticks(range(len(labels)), labels)
    axis.set_xscale("log")
    axis.margins(x=0.2)
    axis.xaxis.set_major_formatter("{x:g}")
    axis.grid(axis="x")
    axis.set_title("Enqueueing to call start, ms: p50 – p99")


def _scale(axis: Any, result: dict[str, Any]) -> None:
    axis.axhspan(0.8, 1.2, color=GRID, linewidth=0)
    for (step, by), colour in zip(result["ratios"].items(), (OURS, OTHERS, THIRD), strict=True):
        sizes = [int(size) for size in by]
        axis.plot(sizes, list(by.values()), "o-", color=colour, label=step)
    axis.set_xscale("log")
    axis.xaxis.set_major_formatter("{x:,.0f}")
    axis.set_ylim(0, max(2, *(max(by.values()) * 1.1 for by in result["ratios"].values())))
    axis.legend(loc="upper left", ncols=3)
    axis.set_title(f"CPU with so many jobs queued, over {result['sizes'][0]:,}")


if __name__ == "__main__":
    main(*sys.argv[1:])
