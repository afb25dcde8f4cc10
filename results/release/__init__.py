"""How finished runs become the committed reference and the README's table."""
