"""Models: where they come from, how they are loaded safely, how much memory they take."""
