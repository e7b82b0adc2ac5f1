"""Metrics as pure functions of arrays: FID, MMD, composition, speed, and the error bars of all of them."""
