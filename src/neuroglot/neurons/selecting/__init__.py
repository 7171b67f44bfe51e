"""From a profile to the neurons to train: methods, the rows they take, and controls. No model is needed."""
