"""Pictures, charts and explorers of the book. They take pictures or tidy rows, and need no model.

`pictures` draws grids, maps and the poster, `charts` draws rows, `explorer` looks through pictures. Each function
returns a matplotlib figure (the explorer a widget), which a notebook shows where a cell ends with it:

    from dori_lite.figures import charts, pictures
    pictures.grid({"own twin": images})
"""
