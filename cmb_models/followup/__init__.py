"""New microbleeds between two scans of one patient.

compare registers the two scans and puts the rest together: correspondence pairs their candidates, severity counts the new ones,
figure and outputs show and write the result.
"""
