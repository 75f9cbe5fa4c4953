"""Sign-in: passwords, the second factor, sessions and tokens, and limits for who guesses."""
