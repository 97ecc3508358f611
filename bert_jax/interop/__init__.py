"""Hugging Face and original TensorFlow checkpoints: name tables, import, export, verification."""
