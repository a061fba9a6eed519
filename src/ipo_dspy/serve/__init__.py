"""HTTP on this machine: a classifier as an endpoint, the page of a run."""
