"""The proof of the containers: `python -m tests.containers`, with any Docker engine on PATH."""
