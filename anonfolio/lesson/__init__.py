"""Lessons: predictions and exercises that a notebook asks, and how an answer is judged.

Holds the kinds of question, with reasons and hints.
Imports everything left of it: kernel to view.
Guarded by test_quiz.
"""
