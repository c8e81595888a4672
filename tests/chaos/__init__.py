"""The proof under fire: `python -m tests.chaos`, a whole service whose parts die while it works."""
