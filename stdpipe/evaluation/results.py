"""What an evaluation writes: frames.csv as it goes along, then result.json and table.md.

frames.csv      a line for each network, clip and scored frame; a clip's lines come together
unfinished.json what is being measured, as long as it is: the same command then goes on
result.json     the whole definition, and the averages
table.md        the same for people
"""

import csv
import io
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from stdpipe.evaluation.temporal import TEMPORAL

# a frame's figures by name, its number among them; of one clip; by clip; by network
Row = dict[str, float]
Clips = dict[str, list[Row]]

HEADINGS = {
    "psnr_y": ("PSNR Y (dB)", ".3f"),
    "ssim_y": ("SSIM Y", ".4f"),
    "psnr_rgb": ("PSNR RGB (dB)", ".3f"),
    "ssim_rgb": ("SSIM RGB", ".4f"),
    "warp_error": ("warp error", ".3e"),
    "warp_error_hr": ("HR's own", ".3e"),
    "tof": ("tOF (px)", ".3f"),
    "profile_diff": ("profile diff", ".3f"),
}


class FrameLog:
    """The frames scored so far; kept in `out` clip by clip, so that a stopped run can go on.

    `definition` is everything that the figures depend on: an unfinished run of another one is
    begun anew. `lengths`: how many frames of each clip are scored.
    """

    def __init__(
        self,
        out: Path | None,
        definition: Mapping[str, Any],
        networks: Sequence[str],
        lengths: Mapping[str, int],
        figures: Iterable[str],
    ) -> None:
        self.columns = ("network", "clip", "frame", *figures)
        self.networks: dict[str, Clips] = {name: {} for name in networks}
        self.file = out and out / "frames.csv"
        self.mark = out and out / "unfinished.json"
        if out:
            out.mkdir(parents=True, exist_ok=True)
            self._go_on(out, json.dumps(definition, indent=2) + "\n", lengths)

    @property
    def done(self) -> set[str]:
        """Clips that all networks have been through."""
        return set.intersection(*(set(clips) for clips in self.networks.values()))

    def add(self, clip: str, rows: Mapping[str, list[Row]]) -> None:
        """The scored frames of one clip, by network; on the disk when this returns."""
        for network, frames in rows.items():
            self.networks[network][clip] = frames
        if self.file:
            with self.file.open("a", newline="") as file:
                file.write(self._lines([clip]))
                file.flush()
                os.fsync(file.fileno())

    def finish(self, out: Path, result: Mapping[str, Any]) -> None:
        """Write result.json and table.md; the run is no longer unfinished."""
        write_aside(out / "table.md", results_table(result) + "\n")
        write_aside(out / "result.json", json.dumps(result, indent=2) + "\n")
        assert self.mark
        self.mark.unlink(missing_ok=True)

    def _go_on(self, out: Path, definition: str, lengths: Mapping[str, int]) -> None:
        assert self.file
        assert self.mark
        if self.mark.exists() and self.mark.read_text() == definition and self.file.exists():
            self._read(self.file.read_text(), lengths)
        for stale in ("result.json", "table.md"):
            (out / stale).unlink(missing_ok=True)
        kept = [clip for clip in lengths if clip in self.done]
        write_aside(self.file, ",".join(self.columns) + "\n" + self._lines(kept))
        write_aside(self.mark, definition)

    def _read(self, text: str, lengths: Mapping[str, int]) -> None:
        """Take over the clips that are complete; the last line may be torn."""
        whole = text[: text.rfind("\n") + 1]
        found: dict[tuple[str, str], list[Row]] = {}
        for line in csv.DictReader(io.StringIO(whole)):
            figures = {k: float(v) for k, v in line.items() if k in self.columns[2:] and v}
            row = {**figures, "frame": int(line["frame"])}
            found.setdefault((line["network"], line["clip"]), []).append(row)
        for clip, length in lengths.items():
            rows = {name: found.get((name, clip), []) for name in self.networks}
            if all(len(frames) == length for frames in rows.values()):
                for name, frames in rows.items():
                    self.networks[name][clip] = frames

    def _lines(self, clips: Iterable[str]) -> str:
        text = io.StringIO()
        writer = csv.DictWriter(text, self.columns, restval="", lineterminator="\n")
        for clip in clips:
            for network, of_network in self.networks.items():
                rows = of_network[clip]
                writer.writerows({"network": network, "clip": clip, **row} for row in rows)
        return text.getvalue()


def write_aside(path: Path, text: str) -> None:
    """Written beside its name, then renamed: a crash leaves the old file or the new."""
    aside = path.with_name(path.name + ".partial")
    aside.write_text(text)
    aside.replace(path)


def averages(clips: Clips, figures: Sequence[str]) -> dict[str, Any]:
    """Mean over a clip's frames, then over clips.

    Figures that are not finite are left out: PSNR of a frame that equals its HR (black ones do),
    motion into a clip's first frame. A clip with none left has null (JSON has no infinity), does
    not enter that average, and is named in `excluded` where it is PSNR.
    """
    table = {
        clip: {name: _mean(row.get(name) for row in rows) for name in figures}
        | {"frames": len(rows), "infinite": sum(math.isinf(row["psnr_y"]) for row in rows)}
        for clip, rows in clips.items()
    }
    average = {name: _mean(row[name] for row in table.values()) for name in figures}
    excluded = [clip for clip, row in table.items() if row["psnr_y"] is None]
    return {"average": average, "excluded": excluded, "clips": table}


def by_list(
    clips: Mapping[str, Mapping[str, Any]], lists: Mapping[str, Sequence[str]], names: Sequence[str]
) -> dict[str, Any]:
    """Vimeo90K's lists: each list's average, theirs weighted by clips, and the clips in none."""
    members = {name: [key for key in lists[name] if key in clips] for name in lists}
    listed = dict.fromkeys(key for keys in members.values() for key in keys)
    averages = {
        name: {"clips": len(keys)} | {n: _mean(clips[key][n] for key in keys) for n in names}
        for name, keys in {**members, "weighted": list(listed)}.items()
    }
    return {**averages, "unlisted": [key for key in clips if key not in listed]}


def _mean(values: Iterable[float | None]) -> float | None:
    finite = [value for value in values if value is not None and math.isfinite(value)]
    return math.fsum(finite) / len(finite) if finite else None


def results_table(result: Mapping[str, Any]) -> str:
    """Markdown: the rules, a table of all networks where there are several, each one's clips."""
    networks = result.get("networks", [result])
    rules = result["protocol"]
    lines = [
        ", ".join(network["name"] for network in networks) + f" on {result['data']}",
        f"degradation {result['degradation']['name']}: {result['degradation']['text']}",
        f"protocol {rules['name']} ({rules['chosen']}): {rules['text']}",
        *_temporal_lines(result["metrics"]),
        *(warning for network in networks for warning in _warnings(network, result)),
    ]
    if len(networks) > 1:
        lines += ["", *_summary(networks, result)]
    for network in networks:
        title = ["", f"## {network['name']}"] if len(networks) > 1 else []
        lines += [*title, "", *_clip_table(network)]
        lines += ["", *_cost_lines(network["cost"])] if "cost" in network else []
    return "\n".join(lines)


def _temporal_lines(metrics: Mapping[str, str]) -> list[str]:
    lines = [f"{HEADINGS[n][0]}: {metrics[n]}" for n in TEMPORAL if n in metrics]
    return [f"flow: {metrics['flow']}", *lines] if lines else []


def _warnings(network: Mapping[str, Any], result: Mapping[str, Any]) -> list[str]:
    trained, measured = network["trained_for"], result["degradation"]["name"]
    mismatch = f"WARNING: {network['name']} was trained for {trained}"
    exact = f"{', '.join(network['excluded'])}: equal to HR, not in PSNR's averages"
    return [mismatch] * (trained not in (None, measured)) + [exact] * bool(network["excluded"])


def _summary(networks: Sequence[Mapping[str, Any]], result: Mapping[str, Any]) -> list[str]:
    figures = networks[0]["average"]
    rules = [result["protocol"]["name"], result["degradation"]["name"]]
    return _markdown(
        ["network", "protocol", "degradation", *(HEADINGS[name][0] for name in figures)],
        [[net["name"], *rules, *_figures(net["average"], figures)] for net in networks],
        left=3,
    )


def _clip_table(network: Mapping[str, Any]) -> list[str]:
    figures = network["average"]
    rows = [*network["clips"].items()] if len(network["clips"]) <= 100 else []
    lists = {name: row for name, row in network.get("lists", {}).items() if name != "unlisted"}
    rows += [(f"{name} ({row['clips']} clips)", row) for name, row in lists.items()]
    rows.append(("average", network["average"]))
    return _markdown(
        ["clip", *(HEADINGS[name][0] for name in figures)],
        [[key, *_figures(row, figures)] for key, row in rows],
        left=1,
    )


def _figures(row: Mapping[str, Any], names: Iterable[str]) -> list[str]:
    missing = {name: "inf" if name.startswith("psnr") else "-" for name in names}
    return [
        missing[name] if row[name] is None else format(row[name], HEADINGS[name][1])
        for name in missing
    ]


def _cost_lines(cost: Mapping[str, Any]) -> list[str]:
    memory = cost["peak_memory_bytes"] / 2**20
    figures = (
        f"{cost['parameters']:,} parameters, {cost['macs'] / 1e9:.2f} GMAC a frame "
        f"({cost['sampling_macs'] / 1e9:.2f} beside for sampling), "
        f"{cost['seconds_per_frame'] * 1e3:.1f} ms a frame and {memory:.0f} MiB on "
        f"{cost['device']} ({cost['threads']} threads, amp {cost['amp']})"
    )
    return [figures, cost["text"]]


def _markdown(head: list[str], rows: list[list[str]], left: int) -> list[str]:
    marks = ["---"] * left + ["---:"] * (len(head) - left)
    return [f"| {' | '.join(cells)} |" for cells in (head, marks, *rows)]
