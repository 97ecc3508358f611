"""`bert-jax inspect`: stores, recordings, workdirs and the batches of a config, in the terminal and as a page."""
