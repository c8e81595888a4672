"""Measures of what a trained model does. Never imported at run time."""
