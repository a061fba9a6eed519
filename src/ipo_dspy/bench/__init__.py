"""The paper's experiment: method x data set x shots x seed by the base-to-novel protocol, and its tables.

`cells` defines the measurements and their keys, and `result_rows` stores the results. `suites` loads the data;
`registry` and `method_runners` provide the methods. `runner` turns a cell into a row, `sweep` runs all cells, and
`ray_sweep` does so on a cluster. `tables`, `learning_curves`, `shots_plot`, and `markdown_page` present the results.
"""
