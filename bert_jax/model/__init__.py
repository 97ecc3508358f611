"""The encoder, its heads, and the specs they are built from. No I/O, no optimizer, no config object."""
