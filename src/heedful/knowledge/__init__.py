"""Knowledge: stores of vetted cases and commonsense, filtered before anything can be made from them, and retrieval."""
