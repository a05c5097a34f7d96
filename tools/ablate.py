"""Command: a recipe over a grid of settings, its rows, and the paper's tables.

Steps that cells share (data, labels, selection) are made once and kept in OUT/steps; trainings
differ in what an axis says and in nothing else. Run it again and it goes on; several processes or
machines may work on one OUT, each on its --shard=i/n of the cells; other grids may share it. The
grid's results lie in OUT/<name>: table.json (all rows), each table as .txt and .csv, report.html.

Arms (axis `arm`): S Algorithm 1; M matched random, as many images of the same classes; Q the same
quota filled in random order; U uniform random, as many; L a given list (config.listed); ALL every
pseudo-label, supervised; T true masks on the images of S; Tall true masks on all images; S-sup the
images of S alone; none: a selection without a training. Seeds (axis `seed`) change initialisation,
order and draws of the arms, the same in all of them; labels and selection are made once.
"""

from __future__ import annotations

import pathlib

from wsssjax.ablate import figure, grid, page, presets, run, tables
from wsssjax.core import cli, files, parallel

EXAMPLE = ("python tools/ablate.py --config=configs/paper_voc_lite.py --config.data.root=FOLDER "
           "\\\n    --axis=arm=S,M,ALL,T --axis=seed=0,1,2 --out=runs/ablation")


def main(arguments: list[str]) -> None:
    """Nothing; runs the cells and writes the tables."""
    parser = cli.parser("python tools/ablate.py", __doc__, EXAMPLE)
    add = parser.add_argument
    add("--config", required=True, metavar="FILE[:ARG]", help="a recipe; --config.a.b=v changes a "
        "field in all cells")
    add("--axis", action="append", default=[], metavar="NAME=V,V", help="an axis of the grid: arm, "
        f"{', '.join(grid.FIELDS)}, or a field of the config; may be repeated")
    add("--table", default="", help="a table of the paper by its number, 3 to 8, figure1, or "
        "protocol (all arms): sets the axes that it needs; --axis changes them")
    add("--out", required=True, help="folder for steps and tables")
    add("--name", default="", help="of the grid: folder in OUT for its tables (default: that of "
        "--table, or grid)")
    add("--shard", default="0/1", help="i/n: run this part of the cells alone (default 0/1)")
    add("--tables_only", action="store_true", help="run nothing; tables of the rows there are")
    plain, overrides = cli.split_overrides(arguments)
    flags = parser.parse_args(plain)
    cells = presets.all_cells(flags.table, [grid.read_axis(text) for text in flags.axis])
    out = pathlib.Path(flags.out)
    parallel.start()
    found = run.run(flags.config, overrides, cells, str(out), shard=flags.shard,
                    work=not flags.tables_only, say=lambda text: print(text, flush=True))
    write(found, out / (flags.name or flags.table or "grid"), flags.table)


def write(found: dict, out: pathlib.Path, only: str) -> None:
    """The table's files in `out`; prints those of one table, or all."""
    out.mkdir(parents=True, exist_ok=True)
    files.write_json(out / "table.json", found)
    shown = presets.SHEETS.get(only)
    texts = {"report.html": page.make(found)}
    if drawing := figure.svg(found):
        texts["figure1.svg"] = drawing
    for key, one in tables.build(found).items():
        text = tables.to_text(one)
        texts |= {f"{key}.txt": text, f"{key}.csv": tables.to_csv(one)}
        if shown is None or key in shown:
            print(text)
    for name, text in texts.items():
        with files.atomic(out / name, "w") as file:
            file.write(text)
    print(f"report: {out / 'report.html'}")


if __name__ == "__main__":
    cli.run(main)
