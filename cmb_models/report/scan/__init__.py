"""The report of one scan, for readers: a self-contained page with its findings, pictures and a viewer."""
