"""Reinforcement learning: one loop, several algorithms, named rewards.

    prompts -> collect (engine samples G replies each, rewards judge them) -> Experience
            -> Algorithm.advantages -> improve (packed passes, Algorithm.loss) -> log, validate, checkpoint

An algorithm is a small object that says what an advantage is and what is minimised; everything else is shared.
"""
