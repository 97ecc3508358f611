"""Text -> token ids: sentences, WordPiece, byte-level BPE and SentencePiece, trained and loaded, with word starts."""
