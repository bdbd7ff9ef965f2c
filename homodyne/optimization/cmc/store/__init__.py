"""The folder of a consensus run: data and draws of every shard, and what workers on other machines need."""
