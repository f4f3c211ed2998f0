"""Helpers of the test suite: what they build or measure stands in their names."""
