"""Speed, side by side: every number here is a median of interleaved repeats, every claim a ratio with its interval."""
