"""Bridges to other programs: FiftyOne, MLflow, and scikit-learn."""
