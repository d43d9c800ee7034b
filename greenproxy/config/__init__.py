"""The configuration: one YAML file, read and checked as a whole before anything starts.

load.py is the way in. text -> document.py (values with their places) -> schema.py (typed models),
availability.py, references.py -> Config, or a ConfigError with every problem.
"""
