"""How far more simulated scans, more optimizer steps and more channels carry the candidate network."""
