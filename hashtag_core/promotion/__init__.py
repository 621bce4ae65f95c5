"""Challenger against champion: the gates, their report, a run in the champion's shadow; needs no Ray."""
