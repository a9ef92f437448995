"""The measured figures in README and docs: collected from a demo into JSON, rendered from JSON into tables and plots."""
