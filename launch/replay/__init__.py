"""What replay holds and how it is sampled."""
