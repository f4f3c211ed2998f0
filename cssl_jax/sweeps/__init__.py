"""Many runs of one recipe with other values, chosen by what judges checkpoints; needs Optuna."""
