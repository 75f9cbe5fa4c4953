"""One repository per kind of thing. They return records, never rows of the database."""
