"""Many models on one archive: which systems, how they compare, the report; needs no Ray."""
