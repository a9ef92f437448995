"""The forms in which marks are stored."""
