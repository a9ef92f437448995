"""The head: the MNI152 template, one subject's traits and shape, its tissues on a grid, and how bright they are."""
