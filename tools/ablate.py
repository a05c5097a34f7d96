"""Command: a recipe over a grid of settings, its rows, and the paper's tables.

Steps that cells share (data, labels, selection) are made once and kept in OUT/steps; trainings
differ in what an axis says and in nothing else. Run it again and it goes on; several processes or
machines may work on one OUT, each on its --shard=i/n of the cells; other grids may share it. The
grid's results lie in OUT/<name>: table.json (all rows), each table as .txt and .csv, report.html.

Seeds (axis `seed`) change initialisation, order and draws of the arms, the same in all of them;
labels and selection are made once. Arm `none` is a selection without a training; arm L takes the
images of config.listed, a file of ids in whose name {quota} stands for the number of voc/92, …;
with it, Tables 7 and 8 compare with L instead of U.
"""

from __future__ import annotations

import pathlib

from wsssjax.ablate import figure, grid, page, run, sheet
from wsssjax.core import cli, files, parallel
from wsssjax.report.tables import ARMS
from wsssjax.steps import check

ABOUT = "\n".join([__doc__, "Arms (axis `arm`), and what they train on:",
                   *(f"  {name:6} {text}" for name, text in ARMS.items())])
EXAMPLE = ("python tools/ablate.py --config=configs/paper_voc_lite.py --config.data.root=FOLDER "
           "\\\n    --axis=arm=S,M,ALL,T --axis=seed=0,1,2 --out=runs/ablation")
SHOWN = {"protocol": ("protocol", "paired", "ratios")}  # of --table; else the table of that number


def main(arguments: list[str]) -> None:
    """Nothing; runs the cells and writes the tables."""
    parser = cli.parser("python tools/ablate.py", ABOUT, EXAMPLE)
    add = parser.add_argument
    add("--config", required=True, metavar="FILE[:ARG]", help="a recipe; --config.a.b=v changes a "
        "field in all cells, --config.check=true looks at the inputs and runs nothing")
    add("--axis", action="append", default=[], metavar="NAME=V,V", help="an axis of the grid: arm, "
        f"{', '.join(grid.FIELDS)}, or any other field of the config, such as refine or "
        "cam_b.infer.threshold; values with commas as a list: 'finish_a=[\"\", \"crf\"]'; may be "
        "repeated")
    add("--table", default="", help="a table of the paper by its number, 3 to 8, figure1, or "
        "protocol (all arms): sets the axes that it needs; --axis changes them")
    add("--out", required=True, help="folder for steps and tables")
    add("--name", default="", help="of the grid: folder in OUT for its tables (default: that of "
        "--table, or grid)")
    add("--shard", default="0/1", help="i/n: run this part of the cells alone (default 0/1)")
    add("--tables_only", action="store_true", help="run nothing; tables of the rows there are")
    plain, overrides = cli.split_overrides(arguments)
    flags = parser.parse_args(plain)
    axes = [grid.read_axis(text) for text in flags.axis]
    listed = grid.load(flags.config, overrides).listed or "listed" in [a.name for a in axes]
    cells = grid.all_cells(flags.table, axes, bool(listed))
    first = grid.config_of(flags.config, overrides, cells[0])
    if first.check:
        check.run(first)
        return
    out = pathlib.Path(flags.out)
    parallel.start()
    found = run.run(flags.config, overrides, cells, str(out), shard=flags.shard,
                    work=not flags.tables_only, say=lambda text: print(text, flush=True))
    write(found, out / (flags.name or flags.table or "grid"), flags.table)


def write(found: dict, out: pathlib.Path, only: str) -> None:
    """The table's files in `out`, in the place of older ones; prints those of one table, or all."""
    out.mkdir(parents=True, exist_ok=True)
    files.write_json(out / "table.json", found)
    sheets = page.build(found)
    texts = {"report.html": page.make(found)}
    if drawing := figure.svg(found):
        texts["figure1.svg"] = drawing
    for key, one in sheets.items():
        texts |= {f"{key}.txt": sheet.to_text(one), f"{key}.csv": sheet.to_csv(one)}
    for name, text in texts.items():
        with files.atomic(out / name, "w") as file:
            file.write(text)
    for key in page.TABLES:
        for name in (f"{key}.txt", f"{key}.csv", f"{key}.svg"):
            if name not in texts:
                (out / name).unlink(missing_ok=True)
    asked = SHOWN.get(only, (f"table{only}" if only.isdigit() else only,)) if only else [*sheets]
    for key in asked:
        print(texts.get(f"{key}.txt", f"{key}: no cell of the grid fills it"))
    print(f"report: {out / 'report.html'}")


if __name__ == "__main__":
    cli.run(main)
