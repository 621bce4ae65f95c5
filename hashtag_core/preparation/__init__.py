"""An archive becomes a dataset: plan, claim of the folder, pictures, records and reports; needs no Ray."""
