"""PLAN: from scores and a target to the channels each group keeps."""
