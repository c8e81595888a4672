"""The HTTP front: FastAPI application, command line and client. Never loads torch."""
