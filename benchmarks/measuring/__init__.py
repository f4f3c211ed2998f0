"""What the benchmarks share: fresh processes to measure in, targets and cells of tables."""
