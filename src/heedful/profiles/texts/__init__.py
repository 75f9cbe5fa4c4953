"""Disclosures, one file a language; read by `heedful.profiles.load_texts`."""
