"""`bert-jax plan`: a config on a slice that is not here."""
