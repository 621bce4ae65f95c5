"""Challenger against champion: what is measured, decided and written down; needs no Ray."""
