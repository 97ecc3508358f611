"""Objectives, optimizers, the train step, the loop, checkpoints and metrics."""
