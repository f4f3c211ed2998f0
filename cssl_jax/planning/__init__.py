"""Estimates the cost of a training step before it runs: memory, FLOPs, bytes between devices."""
