"""Which networks are on the front of quality against cost: no other is better and cheaper.

Reads results of `stdpipe evaluate --json` on one or more data sets and counts what one more frame
of a long video costs. Prints a table, or with --json its rows; --svg draws PSNR over GMAC.

    python benchmarks/front.py VID4.json FOOTAGE.json --size 180x120 --svg front.svg
"""

import json
import math
from pathlib import Path
from typing import Any

import click
from tabulate import tabulate

from stdpipe.models.table import Size, describe_network

WIDTH, HEIGHT, LEFT, TOP = 640, 400, 60, 20  # of the picture, and of its margins


def rows_of(results: list[dict[str, Any]], size: Size) -> list[dict[str, Any]]:
    """Return each network's name, GMAC, PSNR on each result's data, and whether it is on the front
    of the first."""
    rows: dict[str, dict[str, Any]] = {}
    for number, result in enumerate(results):
        for network in result["networks"]:
            row = rows.setdefault(network["name"], {"weights": network["name"].rpartition("@ ")[2]})
            row["network"] = network["model"]
            row.setdefault("psnr", {})[number] = network["average"]["psnr_y"]
    found = [row for row in rows.values() if len(row["psnr"]) == len(results)]
    for row in found:
        row["gmac"] = describe_network(row["network"], size)["gmac"]
    for row in found:
        better = (x for x in found if x["psnr"][0] > row["psnr"][0] and x["gmac"] <= row["gmac"])
        row["front"] = not any(better)
    return sorted(found, key=lambda row: row["gmac"])


def svg(rows: list[dict[str, Any]]) -> str:
    """Draw PSNR on the first data over GMAC, on a logarithmic axis; the front is filled."""
    rows = [row for row in rows if row["gmac"]]
    x0, x1 = (f(math.log10(row["gmac"]) for row in rows) for f in (min, max))
    y0, y1 = (f(row["psnr"][0] for row in rows) for f in (min, max))

    def place(row: dict[str, Any]) -> tuple[float, float]:
        x = (math.log10(row["gmac"]) - x0) / (x1 - x0)
        y = (row["psnr"][0] - y0) / (y1 - y0)
        return LEFT + x * (WIDTH - 3 * LEFT), HEIGHT - 2 * TOP - y * (HEIGHT - 4 * TOP)

    marks = []
    for row in rows:
        (x, y), fill = place(row), "#1668b8" if row["front"] else "none"
        label = row["network"].replace("phase=0.0", "").strip(":,").replace(",,", ",")
        marks.append(f'<circle cx="{x:.0f}" cy="{y:.0f}" r="4" fill="{fill}" stroke="#1668b8"/>')
        marks.append(f'<text x="{x + 7:.0f}" y="{y + 4:.0f}">{label}</text>')
    for gmac in (0.25, 0.5, 1, 2, 4, 8, 16):
        x, _ = place({"gmac": gmac, "psnr": [y0]})
        if LEFT - 1 <= x <= WIDTH - LEFT:
            marks.append(f'<text x="{x:.0f}" y="{HEIGHT - 14}" fill="#666">{gmac:g}</text>')
    for step in range(5):
        psnr = y0 + (y1 - y0) * step / 4
        _, y = place({"gmac": 10**x0, "psnr": [psnr]})
        marks.append(f'<text x="4" y="{y + 4:.0f}" fill="#666">{psnr:.2f}</text>')
    marks.append(f'<text x="{WIDTH - 150}" y="{HEIGHT - 2}" fill="#666">GMAC a frame</text>')
    marks.append('<text x="4" y="12" fill="#666">PSNR Y, dB</text>')
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
    return head + 'font-family="sans-serif" font-size="10">\n' + "\n".join(marks) + "\n</svg>\n"


@click.command()
@click.argument("results", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--size", default="180x120", help="The LR size to count at.")
@click.option("--svg", "picture", type=click.Path(path_type=Path), help="Draw a picture, too.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def main(results: tuple[Path, ...], size: str, picture: Path | None, as_json: bool) -> None:
    width, height = map(int, size.split("x"))
    read = [json.loads(file.read_text()) for file in results]
    rows = rows_of(read, Size(width, height))
    if picture:
        picture.write_text(svg(rows))
    if as_json:
        print(json.dumps({"name": "front", "settings": {"size": size}, "rows": rows}))
        return
    head = ["network", "GMAC", *(Path(result["data"]).name for result in read), "front", "weights"]
    cells = [
        [row["network"], f"{row['gmac']:.2f}", *(f"{x:.3f}" for x in row["psnr"].values()),
         "yes" if row["front"] else "", row["weights"]]
        for row in rows
    ]  # fmt: skip
    print(tabulate(cells, head, tablefmt="pipe", disable_numparse=True))


if __name__ == "__main__":
    main()
