"""Veins as trees: courses of the named ones, growth of the others, radii, and the share of blood in every voxel."""
