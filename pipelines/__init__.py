"""The DVC stages, one file each: read inputs, call the library, write outputs. No logic of their own."""
