"""Commands that look after a sweep: what is done, what to start again, what to stop."""
