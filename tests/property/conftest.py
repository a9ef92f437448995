"""One profile for all property tests: no deadline, since the machine may be busy; the same examples on every run."""

from hypothesis import settings

settings.register_profile("quick", deadline=None, max_examples=60, derandomize=True)
settings.load_profile("quick")
