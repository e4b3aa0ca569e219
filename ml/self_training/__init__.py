"""Noisy Student for hemorrhage (paper section 2.2): teacher -> pseudo-labels -> ranker -> student, by files."""
