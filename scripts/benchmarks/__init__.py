"""`python scripts/bench.py`: compares the cost of scoring with its alternatives; prints docs/benchmarks.md."""
