"""heedful's own crisis cases, one file a language, and the floors on file; read by `heedful.safety.evaluation`."""
