"""Traffic by real programs and by messages, with their figures as values."""
