"""What a notebook or a script calls: plans, runs, their results and models, each as values and not as text."""
