"""Selection rules, differences over seeds and images, intervals."""
