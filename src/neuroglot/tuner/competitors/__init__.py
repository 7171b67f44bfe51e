"""Adapters of other methods, in PEFT's shape, where PEFT's own do not serve: a learned prompt, biases and norms."""
