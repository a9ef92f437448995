"""`cmb import marks`: what readers marked, in the forms of their programs, added to the scans of a dataset."""
