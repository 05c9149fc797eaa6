"""N-gram language models: query, files, estimation, mixing."""
