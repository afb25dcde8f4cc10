"""Numbers that papers print, as data, and where they contradict each other."""
