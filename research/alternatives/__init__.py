"""What the accuracy benchmark sets beside the two stages: other ways to find microbleeds, as their literature describes them."""
