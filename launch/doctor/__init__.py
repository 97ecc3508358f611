"""`bert-jax doctor`: checks of a config with its data before a long run."""
