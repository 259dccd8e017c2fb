"""What is looked at: a page, and summaries made anew, from the records on disk alone."""
