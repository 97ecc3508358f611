"""What a training program will need and take on hardware that is not here: chips, slices, ahead-of-time compilation, estimates."""
