"""Commands that read records: boards, figures, comparisons and their checks."""
