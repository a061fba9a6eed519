"""The paper's experiment: method x data set x shots x seed by the base-to-novel protocol, and its tables.

`cells` says what is measured and by what it is known again, `rows` keeps what was measured, `suites` brings the data,
`methods` and `runs` the methods, `transfer` the other protocol. `measure` makes a row of a cell; `sweep` does so with
one after another, `spread` on a cluster. `tables`, `curves`, `shots` and `page` show what came of it.
"""
