"""The course: how lessons are run, linked and kept, on which machine, and what a run costs."""
