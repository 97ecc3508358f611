"""Token store -> rows: plans that say which pieces make a sequence, and the keyed order of the data."""
