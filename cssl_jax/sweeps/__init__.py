"""Hyperparameter sweeps over one recipe, ranked by the metric that ranks checkpoints; Optuna."""
