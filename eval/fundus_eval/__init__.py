"""Evaluation: the AUC with its interval, operating points, and the one `evaluate` that every room uses."""
