"""What the trainings of several methods share: discriminators, losses, spectral norms."""
