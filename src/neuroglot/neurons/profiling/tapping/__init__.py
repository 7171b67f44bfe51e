"""Where activations meet their gradients, and whose each position and each vision row is."""
