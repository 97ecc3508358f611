"""The token store: flat numpy arrays with a manifest of counts and checksums."""
