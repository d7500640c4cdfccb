"""The command `pj`: one file a verb, each with `register(app)`."""
