"""Pages of a run: one HTML file each, without script, font or picture from outside.

`charts` draws SVG text, `numbers` writes numbers for people, `page` holds the common skeleton and writes files.
"""
