"""A local page to try a model on: masks, attention, similar sentences."""
