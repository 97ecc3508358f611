"""Raw text in, masked batches out: corpus readers, tokenizers, the token store, and the tf.data loader."""
