"""Rows -> masked batches: which tokens to predict, mixtures of stores, and the loader."""
