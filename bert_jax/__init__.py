"""JAX/Flax pretraining of BERT-family encoders. Nothing in this package imports TensorFlow."""
