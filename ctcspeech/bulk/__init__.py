"""Many recordings, on one machine or many: cut into shards, done once, resumed at any time."""
