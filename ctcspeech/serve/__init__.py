"""A server of recognition: HTTP and WebSocket, one batcher a model, a page."""
