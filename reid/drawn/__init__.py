"""Walking people under six or more cameras, drawn from random numbers: the ground of the synthetic data set."""
