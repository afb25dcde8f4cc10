"""The one loop that trains every method, and its parts."""
