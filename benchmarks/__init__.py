"""Benchmarks of effkern; docs/benchmarking.md says how they measure."""
