"""Records as text, tables, plots and pages."""
