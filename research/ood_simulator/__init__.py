"""Out-of-distribution (OOD) simulator: SWI-like scans by a generator that shares no code and no model with the phantom."""
