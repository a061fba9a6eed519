"""`python scripts/bench.py`: what scoring costs beside what a user would take instead; prints docs/benchmarks.md."""
