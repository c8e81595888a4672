"""Recipes that make the weights of the Video LDM family. Never imported at run time."""
