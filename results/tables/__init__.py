"""Boards as text: console, CSV, Markdown, HTML, LaTeX."""
