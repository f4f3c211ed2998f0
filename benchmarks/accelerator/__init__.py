"""The accelerator kit: what one GPU or TPU does with this project, measured in minutes."""
