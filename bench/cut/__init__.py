"""CUT: removing the channels a plan does not keep."""
