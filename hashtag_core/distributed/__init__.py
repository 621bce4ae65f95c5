"""Where the work runs: the only room that imports ray."""
