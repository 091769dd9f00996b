"""What who teaches needs: papers of drawn questions, grading, figures, and what is generated for the kit in teach/.

Holds nothing that a reader's notebook imports.
Imports everything left of it: kernel to exercises.
Guarded by test_homework, test_grade, test_kit.
"""
