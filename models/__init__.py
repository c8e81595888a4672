"""Video models behind one protocol; knows nothing of HTTP or queues."""
