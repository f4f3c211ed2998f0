"""Encoders and heads, as Linen modules over plain dict parameters."""
