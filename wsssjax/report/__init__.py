"""One self-contained HTML page of a run or of a selection.

    __main__        the command; it finds out which of the two a folder holds
    read_run        what a run left in its folder              ─┐ checks: JSON of the right types
    read_selection  what select left in its folder             ─┘
    run_page        values of templates/run.html.j2            ─┐
      gallery       pictures of best and worst pairs            │ template: fills templates/
      curves        charts of the trainings and sweeps          │ tables: numbers in rows
    selection_page  values of templates/selection.html.j2       │ charts: SVG
      images        every image and why it was taken or left    │ figures: data URIs
        reasons     … in words                                  │
        thumbnails  … in pictures, within a budget of bytes    ─┘
    strip           photos and label maps as one PNG, for a README
"""
