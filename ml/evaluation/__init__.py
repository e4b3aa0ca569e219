"""Answers on labelled exams: recorded, measured, and made into the paper's tables and figures. No torch."""
