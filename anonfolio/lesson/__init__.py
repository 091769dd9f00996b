"""Lessons: predictions and exercises that a notebook asks, and how an answer is judged.

Holds the kinds of question, with reasons and hints, and the file of a reader's answers.
Imports everything left of it: kernel to view.
Guarded by test_quiz, test_answers.
"""
