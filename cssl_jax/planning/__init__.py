"""What a step costs before it runs: memory, FLOPs, bytes between devices, and where it ends."""
