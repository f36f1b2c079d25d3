"""The reports of an evaluation: what is written of points and of what they say together.

Owns the tables, the figures, the pictures, `report.md`, and `report.html`, whose page is the folder
`page`. It measures nothing but what networks say of the pictures that are shown.
"""
