"""Scores of a model beside floors, ceilings and other systems, by the paper's protocol."""
