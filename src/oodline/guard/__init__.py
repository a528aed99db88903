"""Classifier, detector and threshold as one object: verdicts, explanations, files, graphs."""
