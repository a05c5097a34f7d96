"""An ablation: the recipe over a grid of its settings, and the paper's tables from its rows.

    tables        every table of the rows (build), as sheets ─┐ check: rows of the right types
      paper_tables  Tables 3 to 8                             │ slices: which cells, by which axes
      paired        mean and spread, arms seed by seed        │ order: does the paper's hold here
      parts         what the tables share                     │ published: the paper's numbers
      sheet         cells that are numbers: text, CSV        ─┘
    figure        Figure 1: text, CSV, SVG
    page          report.html with all of them
"""
