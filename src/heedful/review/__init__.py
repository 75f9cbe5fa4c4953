"""What happens between a message and a reply: people decide, programs propose and remind.

    message -> kept, assessed -> draft -> a clinician approves, edits or rejects -> sent
                    \\-> held: a person takes over, with a clock

Every step is one transaction of the store. Nothing here needs a model to be up.
"""
