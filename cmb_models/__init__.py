"""cmb-models: a cerebral microbleed detector that a site trains on its own few scans. Research software, not a medical device."""

__version__ = "0.2.0"
