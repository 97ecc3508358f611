"""Labelled examples -> batches for fine-tuning, and the metrics of what a fine-tuned model predicts."""
