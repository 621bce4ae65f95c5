"""How good ranked hashtags are: metrics, thresholds, slices, intervals and the report. Knows no model and no Ray."""
