"""Models judged on a split of a dataset: plan, figures, the report and its page; needs no Ray."""
