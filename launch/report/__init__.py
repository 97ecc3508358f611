"""What a run's log says, as a page: curves, reference curves, sources, samples."""
