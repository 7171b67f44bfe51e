"""Choosing the neurons to train from a profile: methods, the rows they take, and controls. No model is needed."""
