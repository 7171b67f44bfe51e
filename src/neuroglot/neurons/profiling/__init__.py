"""One pass over data: which position is whose, every neuron's scores, their moments, and the profile they make."""
