"""How good an encoder is, measured on frozen features."""
