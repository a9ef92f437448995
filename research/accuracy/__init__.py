"""How many scans does it take? The two stages and their alternatives, trained on few and on more scans, on one fixed test set."""
