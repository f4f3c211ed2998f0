"""One file a self-supervised method; SimCLR first."""
