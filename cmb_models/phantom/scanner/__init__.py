"""The scanner: where its voxels lie, the field in it, k-space, and the images it stores."""
