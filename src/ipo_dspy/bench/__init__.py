"""The paper's experiment: method x data set x shots x seed by the base-to-novel protocol, and its tables.

`cells` says what is measured and by what it is known again, `rows` keeps what was measured, `suites` brings the data,
`methods` and `runs` the methods, `sweep` measures cell after cell, `tables` and `curves` show what came of it.
"""
