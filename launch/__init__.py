"""The command line, and the only place that imports both the core and the data pipeline."""
