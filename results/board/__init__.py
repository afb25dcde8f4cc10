"""What a board is made of: sections, rows, and how rows compare."""
