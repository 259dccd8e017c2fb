"""Small tools over torch: contexts, hooks, dry runs, batches."""
