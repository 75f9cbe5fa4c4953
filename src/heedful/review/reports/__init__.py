"""Reports that a profile asks for: yearly counts and incidents. Numbers, names of rules, times; nobody's words.

The dossier is in `heedful.server.dossier`, since it tells of the whole installation.
"""
